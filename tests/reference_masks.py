"""Every mask once more, slow and plain: loops over Python's whole numbers, one clip at a time.

Written from what the package promises, to be compared with it; it shares no code with it.
Lengths and places are in 256ths of a patch, vectors in 16ths of a pixel.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from reference_uniforms import between, bits

from mgm_dali.config import MaskConfig
from mgm_dali.masking import PatchGrid

PATCH = 256
CELL_STEPS = 128
LONGEST = 2048
DRAWS, NOISE, DECODING = 0, 1, 2
"""The streams of random numbers. In the first: ties, 2 starts, 2 velocities, t steps of jitter."""


@dataclass
class Clip:
    """`motion[frame][row][column]` is (dx, dy) in pixels, `known` likewise, `valid[frame]`."""

    motion: list
    valid: list
    known: list
    seed: int
    grid: PatchGrid
    config: MaskConfig

    def __post_init__(self):
        self.rows, self.columns = 2 * self.grid.h, 2 * self.grid.w
        self.cells = [(row, column) for row in range(self.rows) for column in range(self.columns)]
        self.places = [(row, column) for row in range(self.grid.h) for column in range(self.grid.w)]
        self.ratio = Fraction(str(self.config.ratio))
        self.hidden = math.floor(self.ratio * len(self.places))
        self.ties = [bits(self.seed, DRAWS, number) for number in range(len(self.places))]

    def vector(self, frame, cell):
        """(dx, dy) in 16ths of a pixel."""
        row, column = cell
        return tuple(round(16 * clamp(pixels, 1e9)) for pixels in self.motion[frame][row][column])

    def is_known(self, frame, cell):
        return self.known[frame][cell[0]][cell[1]]

    def around(self, cell):
        """The cell and its neighbours, as far as they are in the frame."""
        row, column = cell
        return [
            (y, x)
            for y in range(max(row - 1, 0), min(row + 2, self.rows))
            for x in range(max(column - 1, 0), min(column + 2, self.columns))
        ]


def reference_mask(motion, valid, known, seed, grid, config):
    """One clip's mask, a list of t * h * w bools; the arguments are lists."""
    clip = Clip(motion, valid, known, seed, grid, config)
    scores, more = STRATEGIES[config.strategy](clip)
    mask = []
    for of_slice, extra in zip(scores, more or [0] * grid.t, strict=True):
        highest = the_highest(of_slice, clip.hidden + extra, clip.ties)
        mask += [place in highest for place in range(len(of_slice))]
    return mask


def reference_decoded(mask, seed, grid, num_decoded):
    """One clip's predicted tokens, a list of bools."""
    start = between(0, 3, bits(seed, DECODING, 0))
    ties = [bits(seed, DECODING, 1 + number) for number in range(len(mask))]
    turns = [
        (2 * (row % 2) + column % 2 + number + start) % 4
        for number in range(grid.t)
        for row in range(grid.h)
        for column in range(grid.w)
    ]
    scores = [turn if hidden else -1 for turn, hidden in zip(turns, mask, strict=True)]
    chosen = the_highest(scores, num_decoded, ties)
    return [token in chosen for token in range(len(mask))]


def the_highest(scores, count, ties):
    """Indices of the highest; 16 bits of noise, then the index decide between equals."""
    order = sorted(range(len(scores)), key=lambda i: (scores[i], ties[i] >> 8, i), reverse=True)
    return set(order[:count])


def clamp(number, limit):
    return min(max(number, -limit), limit)


def random_tokens(clip):
    size = len(clip.places)
    noise = [bits(clip.seed, NOISE, number) for number in range(clip.grid.num_tokens)]
    return [noise[first : first + size] for first in range(0, len(noise), size)], None


def place_noise(clip):
    return [bits(clip.seed, NOISE, number) for number in range(len(clip.places))]


def tube(clip):
    return [place_noise(clip)] * clip.grid.t, None


def block(clip):
    first = simulated_path(clip)[0]
    return [distances(clip, first, square(clip))] * clip.grid.t, None


def simulated_motion(clip):
    return rectangles(clip, simulated_path(clip))


def simulated_motion_sparse(clip):
    height, width = square(clip)
    # Noise from 0 to 2 half sides, on the scale of `distances`.
    weights = [noise * (height * width) // 2**24 for noise in place_noise(clip)]
    scores = []
    for center in simulated_path(clip, inside=False):
        far = distances(clip, center, (height, width))
        scores.append([])
        for (row, column), score in zip(clip.places, far, strict=True):
            rolled = (row - center[0] // PATCH) % clip.grid.h
            across = (column - center[1] // PATCH) % clip.grid.w
            scores[-1].append(weights[rolled * clip.grid.w + across] + score)
    return scores, None


def motion_guided(clip):
    centers = [strongest_middle(clip, number) for number in range(clip.grid.t)]
    return rectangles(clip, held(centers, otherwise=simulated_path(clip)))


def motion_guided_sparse(clip):
    scores = []
    for number in range(clip.grid.t):
        of_slice = dict.fromkeys(clip.places, 0)
        for frame in (2 * number, 2 * number + 1):
            if clip.valid[frame]:
                strengths = {cell: strength(clip.vector(frame, cell)) for cell in clip.cells}
                for cell in clip.cells:
                    take = [cell] if clip.is_known(frame, cell) else clip.around(cell)
                    place = cell[0] // 2, cell[1] // 2
                    of_slice[place] = max(of_slice[place], *(strengths[c] for c in take), 0)
        found = [of_slice[place] for place in clip.places]
        scores.append(found if any(found) else None)
    return held(scores, otherwise=simulated_motion_sparse(clip)[0]), None


def flow_warp(clip):
    noise = place_noise(clip)
    hidden = the_highest(noise, clip.hidden, clip.ties)
    shown = [place for number, place in enumerate(clip.places) if number not in hidden]
    bell = {}
    for row, column in clip.cells:  # in half cells, of which a patch has four
        y, x = 2 * row + 1, 2 * column + 1
        nearest = min((y - 4 * h - 2) ** 2 + (x - 4 * w - 2) ** 2 for h, w in shown)
        bell[row, column] = (4**2 * 2**16) // (4**2 + nearest)
    scores = []
    for number in range(clip.grid.t):
        shown_there = dict.fromkeys(clip.places, 0)
        for frame in (2 * number, 2 * number + 1):
            for cell in clip.cells:
                there = in_the_middle_frame(clip, frame, cell)
                shown_there[cell[0] // 2, cell[1] // 2] += bell[there]
        scores.append([-shown_there[place] for place in clip.places])
    return scores, None


def in_the_middle_frame(clip, frame, cell):
    """The cell that what is in `cell` of a frame is in at the middle one; itself if it leaves."""
    y, x = (place * CELL_STEPS + CELL_STEPS // 2 for place in cell)
    middle = clip.grid.t
    while frame != middle:
        back = frame > middle
        tells = frame if back else frame + 1
        at = y // CELL_STEPS, x // CELL_STEPS
        if clip.is_known(tells, at):
            dx, dy = (clamp(way, LONGEST) for way in clip.vector(tells, at))
            x, y = (x - dx, y - dy) if back else (x + dx, y + dy)
        frame = frame - 1 if back else frame + 1
        if not (0 <= y < clip.rows * CELL_STEPS and 0 <= x < clip.columns * CELL_STEPS):
            return cell
    return y // CELL_STEPS, x // CELL_STEPS


def strength(vector):
    return min(vector[0] ** 2 + vector[1] ** 2, 2 * LONGEST**2)


def strongest_middle(clip, number):
    """Eq. 7's centre in one slice: (y, x), or None where nothing moves."""
    strengths = dict.fromkeys(clip.cells, 0)
    for frame in (2 * number, 2 * number + 1):
        if clip.valid[frame]:
            vector = voted if clip.config.center == "vote" else Clip.vector
            for cell in clip.cells:
                strengths[cell] = max(strengths[cell], strength(vector(clip, frame, cell)))
    moving = {cell: found for cell, found in strengths.items() if found}
    if not moving:
        return None
    middle = nearest_of_strongest if clip.config.center == "top_1" else middle_of_strongest
    row, column = middle(moving, clip.config.top_k)
    return math.floor((row + HALF) / 2 * PATCH), math.floor((column + HALF) / 2 * PATCH)


HALF = Fraction(1, 2)


def nearest_of_strongest(moving, _top_k):
    """A strongest cell: of several, one in the row nearest to their mean; so in this row too."""
    tied = [cell for cell in moving if moving[cell] == max(moving.values())]
    row = nearest_to_mean([cell[0] for cell in tied])
    return row, nearest_to_mean([cell[1] for cell in tied if cell[0] == row])


def nearest_to_mean(numbers):
    """The mean is taken to eighths; of two that are as near, the lower."""
    mean = Fraction(math.floor(8 * (Fraction(sum(numbers), len(numbers)) + HALF)), 8) - HALF
    return min(numbers, key=lambda number: (abs(number - mean), number))


def middle_of_strongest(moving, top_k):
    """Mean place of so many, of which those as strong as the last have equal shares."""
    least = sorted(moving.values(), reverse=True)[:top_k][-1]
    above = [cell for cell in moving if moving[cell] > least]
    tied = [cell for cell in moving if moving[cell] == least]
    count = min(top_k, len(moving))
    share = Fraction(count - len(above), len(tied))
    return [
        (sum(cell[axis] for cell in above) + share * sum(cell[axis] for cell in tied)) / count
        for axis in (0, 1)
    ]


def voted(clip, frame, cell):
    votes = [clip.vector(frame, c) for c in clip.around(cell) if clip.is_known(frame, c)]
    if not votes:
        return 0, 0
    sums = (sum(clamp(vote[axis], LONGEST) for vote in votes) for axis in (0, 1))
    return tuple(math.trunc(Fraction(total, len(votes))) for total in sums)


def held(values, *, otherwise):
    """None takes the last value, or the first where there is none yet."""
    known = [value for value in values if value is not None]
    if not known:
        return otherwise
    filled, last = [], known[0]
    for value in values:
        last = last if value is None else value
        filled.append(last)
    return filled


def simulated_path(clip, inside=True):
    """(y, x) in each slice: a walk that turns round at the walls."""
    ways = []
    for axis, (size, side) in enumerate(zip(clip.grid[1:], square(clip), strict=True)):
        margin = side // 2 if inside and clip.config.border == "shift" else 0
        room = max(size * PATCH - 2 * margin, 1)
        start, velocity = (bits(clip.seed, DRAWS, len(clip.places) + n + axis) for n in (0, 2))
        place = start * room // 2**24
        speed = PATCH * between(-2, 2, velocity)
        ways.append([])
        for _ in range(clip.grid.t):
            ways[-1].append(margin + place)
            place += speed
            while not 0 <= place <= room:
                place = -place if place < 0 else 2 * room - place
                speed = -speed
    return list(zip(*ways, strict=True))


def square(clip):
    """(height, width), each a whole even number: a square if the frame is high and wide enough."""
    _, h, w = clip.grid
    area = clip.ratio * len(clip.places)
    height_squared = width_squared = area
    if area > h**2:
        height_squared, width_squared = h**2, (area / h) ** 2
    elif area > w**2:
        height_squared, width_squared = (area / w) ** 2, w**2
    # Half a side, to the nearest whole number, is (2 * half + 1) // 2.
    doubled = (math.isqrt(math.floor(s * PATCH**2)) for s in (height_squared, width_squared))
    return tuple(2 * ((half + 1) // 2) for half in doubled)


def rectangles(clip, centers):
    """Scores around the centres, and how many tokens more each slice hides."""
    t, h, w = clip.grid
    wider = [0]
    for number in range(1, t):
        step = between(-1, 1, bits(clip.seed, DRAWS, len(clip.places) + 4 + number))
        wider.append(min(max(wider[-1] + step, -1), 1))
    wider[-1] = 0
    if not clip.config.jitter or clip.hidden < 2 or len(clip.places) - clip.hidden < 2:
        wider = [0] * t
    scores = []
    for center, patches in zip(centers, wider, strict=True):
        height, width = square(clip)
        sides = max(height - patches * PATCH, 2), width + patches * PATCH
        if clip.config.border == "shift":
            center = [shifted(*axis) for axis in zip(center, sides, (h, w), strict=True)]
        scores.append(distances(clip, center, sides))
    more = [-(patches**2) for patches in wider]  # (a + 1)(a - 1) is a * a - 1
    for number in range(-sum(more)):
        more[number % t] += 1
    return scores, more


def shifted(place, side, size):
    """The nearest place at which the side does not stick out of the frame."""
    half = min(side, size * PATCH) // 2
    return min(max(place, half), size * PATCH - half)


def distances(clip, center, sides):
    """Minus how far each place is, in half sides, on a scale of half the rectangle's area."""
    height, width = sides
    scores = []
    for row, column in clip.places:
        y = Fraction(abs(row * PATCH + PATCH // 2 - center[0]), height) * 2
        x = Fraction(abs(column * PATCH + PATCH // 2 - center[1]), width) * 2
        scores.append(-int(max(y, x) * height * width / 2))
    return scores


STRATEGIES = {
    "random": random_tokens,
    "tube": tube,
    "block": block,
    "simulated_motion": simulated_motion,
    "simulated_motion_sparse": simulated_motion_sparse,
    "motion_guided": motion_guided,
    "motion_guided_sparse": motion_guided_sparse,
    "flow_warp": flow_warp,
}
