"""Chains of libavfilter's filters for decoded frames, on one thread."""

from fractions import Fraction

import av
from av.video.reformatter import ColorPrimaries, ColorTrc

__all__ = ["filter_chain", "forget_colour_tags"]


def filter_chain(like: av.VideoFrame, *filters: tuple[str, str]) -> av.filter.Graph:
    """The filters (name, options) one behind the other, for frames of this size and format."""
    graph = av.filter.Graph()
    graph.threads = 1  # one process per core; a pool of threads would cost more than the frame
    source = graph.add_buffer(
        width=like.width,
        height=like.height,
        format=like.format,
        time_base=like.time_base or Fraction(1, 1000),
    )
    steps = [graph.add(name, options) for name, options in filters]
    graph.link_nodes(source, *steps, graph.add("buffersink")).configure()
    return graph


def forget_colour_tags(frame: av.VideoFrame) -> None:
    """Takes off two tags that nothing here heeds: filters refuse values that are reserved."""
    frame.color_trc, frame.color_primaries = ColorTrc.UNSPECIFIED, ColorPrimaries.UNSPECIFIED
