"""Do a network and its weights agree where no shape would betray that they do not?

What is known about the weights (`written_for.py`) is held against the network that takes them. What
would change the numbers is refused with the repair; what is permitted and worth knowing is a note.
"""

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import ModelConfig
from mgm_dali.models.block import NORM_EPSILON
from mgm_dali.models.huggingface import loses_biases
from mgm_dali.models.position import position_grid
from mgm_dali.models.vit import BACKBONES
from mgm_dali.models.weight_files import FoundWeights
from mgm_dali.models.written_for import WeightsError, WrittenFor

__all__ = ["compare_networks", "require_biases"]

PLAIN_BLOCK = "timm.models.vision_transformer.Block"
LARGEST_EPSILON = 1e-5
"""torch's own default. Up to it outputs differ by about 1e-5 from those with 1e-6."""


def compare_networks(
    config: ModelConfig, found: FoundWeights, *, takes_decoder: bool, takes_head: bool
) -> list[str]:
    """Notes on what is permitted, or a `WeightsError` for what would change the numbers."""
    notes = []
    written = found.written_for
    if written is not None:
        if written.name not in (None, config.name) and not found.learned_on_images:
            raise WeightsError(
                f"{written.source}: is of {written.name}, this network is {config.name}; "
                f"set model.name={written.name}"
            )
        if written.architecture is not None:
            notes += _compare_blocks(written)
        _require_same_layers(config, written, takes_decoder)
        _require_same_arithmetic(found, written, takes_decoder, takes_head)
        notes += _smaller_differences(written, takes_decoder)
    return notes + _compare_positions(config, found)


def _require_same_layers(config: ModelConfig, written: WrittenFor, takes_decoder: bool) -> None:
    size = BACKBONES[config.name]
    layers = [
        ("hidden_size", written.width, size.width),
        ("num_hidden_layers", written.depth, size.depth),
        ("num_attention_heads", written.num_heads, size.num_heads),
    ]
    if takes_decoder:
        layers += [
            ("decoder_num_attention_heads", written.decoder_heads, size.decoder_heads),
            ("decoder depth", written.decoder_depth, config.decoder_depth),
        ]
    for key, theirs, ours in layers:
        if theirs not in (None, ours):
            repair = (
                f"Choose a model.name with as many; if the file is wrong (converted small models "
                f"say 16 heads and have 6), correct {key} in it"
            )
            if written.architecture is not None:
                repair = f"It is timm's {written.architecture:.60}; take one with as many"
            raise WeightsError(
                f"{written.source}: {key} is {theirs}, {config.name} has {ours}: if no shape "
                f"differs, the numbers would. {repair}"
            )


def _compare_blocks(written: WrittenFor) -> list[str]:
    """Of an image network by timm: its blocks must compute what ours do."""
    if written.block is None:
        return [
            f"timm knows no architecture {written.architecture!r:.60}: heads, activation and order "
            f"of layers were not compared"
        ]
    if written.block != PLAIN_BLOCK:
        raise WeightsError(
            f"{written.source}: {written.architecture:.60} has blocks of another kind "
            f"({written.block}, ours compute as {PLAIN_BLOCK}); take a plain vision transformer"
        )
    return []


def _require_same_arithmetic(
    found: FoundWeights, written: WrittenFor, takes_decoder: bool, takes_head: bool
) -> None:
    if written.activation not in (None, "gelu"):
        raise WeightsError(
            f"{written.source}: its activation is {written.activation!r:.40}, ours is 'gelu'; "
            "take weights that were trained with it"
        )
    if written.norm_epsilon is not None and written.norm_epsilon > LARGEST_EPSILON:
        raise WeightsError(
            f"{written.source}: layer_norm_eps is {written.norm_epsilon}, ours is {NORM_EPSILON}: "
            "outputs would differ; take weights that were trained with it"
        )
    if takes_decoder and "encoder.norm.weight" not in found.tensors:
        raise WeightsError(
            f"{found.path}: has a decoder but no last norm of the encoder (use_mean_pooling true), "
            "and ours reads normed tokens; take weights that were pretrained with it"
        )
    if takes_head and written.mean_pooling is False:
        raise WeightsError(
            f"{written.source}: use_mean_pooling is false, but the weights have an fc_norm, which "
            "is of the mean; set use_mean_pooling to true if the head was trained on that"
        )


def require_biases(found: FoundWeights) -> None:
    """Refuses weights from which some versions of transformers have taken the biases."""
    version = "" if found.written_for is None else found.written_for.transformers_version
    if not loses_biases(version):
        return
    biases = [t for n, t in found.tensors.items() if n.endswith((".q_bias", ".v_bias"))]
    if not any(bool(bias.any()) for bias in biases):
        raise WeightsError(
            f"{found.path}: all biases of queries and values are 0 or gone, and it was saved by "
            f"transformers {version:.20}: versions 5.5 to 5.17 read VideoMAE's "
            "files without them. Take the original file, or load and save that one again with "
            "another version"
        )


def _smaller_differences(written: WrittenFor, takes_decoder: bool) -> list[str]:
    notes = []
    if written.norm_epsilon not in (None, NORM_EPSILON):
        notes.append(
            f"its layer_norm_eps is {written.norm_epsilon}, {NORM_EPSILON} here, as "
            "VideoMAE was trained: outputs differ by about 1e-5"
        )
    if takes_decoder and written.normalised_target is False:
        notes.append("the decoder learned plain pixels, not normalised ones as here")
    return notes


def _compare_positions(config: ModelConfig, found: FoundWeights) -> list[str]:
    """Whether the positions of the network are those that the weights have learned."""
    own, used = (config.num_frames, config.image_size), config.position_clip
    notes = []
    if position_grid(config) != token_grid(config):
        notes.append(f"positions of {_clip(used)} are stretched to {_clip(own)}")
    learned = None if found.written_for is None else found.written_for.clip
    if found.learned_on_images or BACKBONES[config.name].learned_positions:
        return notes  # nothing is known of clips, or the table is one of the weights
    if learned is None:
        return [
            f"the file does not say on which clips it learned; taken for {_clip(used)}",
            *notes,
        ]
    if learned != used:
        if config.position_frames is None and config.position_size is None:
            raise WeightsError(
                f"{found.path}: learned on {_clip(learned)}, and this network's clips are "
                f"{_clip(own)}; set model.position_frames={learned[0]} "
                f"model.position_size={learned[1]} to stretch the positions that it knows, or "
                f"model.position_frames={own[0]} model.position_size={own[1]} for new ones, which "
                "must be learned again"
            )
        notes.append(
            f"learned on {_clip(learned)}, used with the positions of {_clip(used)}: places mean "
            "others and must be learned again"
        )
    return notes


def _clip(clip: tuple[int, int]) -> str:
    return f"{clip[0]} frames of {clip[1]} pixels"
