"""Paints the sandbox's pictures: a landscape that depends on prompt and seed, with a small SANDBOX mark."""

import hashlib
import io
import math
import random
from itertools import pairwise

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

SIDE = 1024
Colour = tuple[int, int, int]
BLACK = (0, 0, 0)
# Sky above, sky at the horizon, light, far hills, near hills.
Palette = tuple[Colour, Colour, Colour, Colour, Colour]

PALETTES: dict[str, Palette] = {
    "dusk": ((38, 28, 84), (246, 136, 96), (255, 226, 170), (150, 84, 122), (28, 20, 50)),
    "dawn": ((96, 140, 196), (252, 206, 178), (255, 244, 214), (146, 150, 186), (48, 58, 88)),
    "night": ((6, 10, 32), (38, 60, 112), (236, 240, 255), (34, 50, 92), (6, 10, 24)),
    "day": ((58, 132, 206), (206, 232, 244), (255, 252, 226), (126, 168, 178), (30, 78, 66)),
    "fog": ((150, 164, 172), (228, 230, 226), (250, 248, 236), (176, 186, 188), (72, 86, 92)),
    "fire": ((52, 8, 24), (238, 84, 36), (255, 214, 110), (150, 40, 42), (30, 6, 16)),
    "aurora": ((4, 18, 40), (24, 110, 110), (190, 255, 220), (20, 70, 86), (4, 18, 28)),
}
# The words of a prompt that choose a palette. Without such a word it is random, but the same for prompt and seed.
WORDS = {
    "dusk": ("dusk", "sunset", "evening", "twilight", "autumn"),
    "dawn": ("dawn", "sunrise", "morning", "spring", "blossom"),
    "night": ("night", "moon", "midnight", "star", "cyberpunk", "neon"),
    "day": ("noon", "summer", "beach", "sunny", "jungle", "forest", "meadow"),
    "fog": ("fog", "mist", "rain", "winter", "snow", "storm"),
    "fire": ("fire", "lava", "volcano", "desert", "mars", "dragon"),
    "aurora": ("aurora", "ice", "polar", "underwater", "alien"),
}
WATER = ("sea", "lake", "lighthouse", "ocean", "river", "harbour", "harbor", "beach", "island", "boat", "ship", "water")


def paint(prompt: str, seed: int, index: int = 0) -> bytes:
    """Return a picture of 1024 × 1024 pixels as JPEG bytes: the same for the same arguments and the same Pillow.

    Some words of the prompt choose the palette and the water. The shapes depend on prompt, seed and `index`, which is
    the number of the sample.
    """
    digest = hashlib.sha256(f"{index}:{seed}:{prompt}".encode("utf-8", "replace")).digest()
    rng = random.Random(digest)  # noqa: S311  a picture, not a secret
    drawn = rng.choice(sorted(PALETTES))
    name = next((name for name, words in WORDS.items() if _has(prompt, words)), drawn)
    palette = high, low, light, _, near = PALETTES[name]
    horizon = rng.randint(560, 680)
    picture = _sky(rng, high, low, horizon)
    sun = (rng.randint(220, 800), rng.randint(horizon - 330, horizon - 90))
    picture = _glow(picture, sun, rng.randint(36, 84), light)
    water = _has(prompt, WATER) or rng.random() < 0.35
    _hills(picture, rng, horizon, palette, water=water)
    if water:
        _water(picture, rng, horizon, sun[0], light)
    _foreground(picture, rng, near)
    if _has(prompt, ("lighthouse",)):
        picture = _lighthouse(picture, rng, horizon, near, light)
    buffer = io.BytesIO()
    _mark(picture).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _has(prompt: str, words: tuple[str, ...]) -> bool:
    return any(word in prompt.lower() for word in words)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _sky(rng: random.Random, high: Colour, low: Colour, horizon: int) -> Image.Image:
    """Return a sky with its colours from top to bottom. The darker it is, the more stars it has."""
    column = Image.new("RGB", (1, SIDE))
    for y in range(SIDE):
        column.putpixel((0, y), _mix(high, low, min(y / horizon, 1) ** 1.3))
    picture = column.resize((SIDE, SIDE))
    darkness = 1 - sum(high) / 450
    draw = ImageDraw.Draw(picture)
    for _ in range(round(220 * max(darkness, 0))):
        x, y, size = rng.randrange(SIDE), rng.randrange(horizon - 150), rng.choice((0, 0, 0, 1))
        draw.ellipse((x, y, x + size, y + size), fill=_mix(high, (255, 255, 255), rng.uniform(0.2, 0.9)))
    return picture


def _glow(picture: Image.Image, centre: tuple[int, int], radius: int, light: Colour) -> Image.Image:
    small = Image.new("RGB", (SIDE // 4, SIDE // 4))
    draw = ImageDraw.Draw(small)
    for ring in range(24, 0, -1):
        shine = _mix(BLACK, light, 0.5 * (1 - ring / 25) ** 2)
        draw.circle((centre[0] / 4, centre[1] / 4), (radius + ring * 13) / 4, fill=shine)
    halo = small.filter(ImageFilter.GaussianBlur(5)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    picture = ImageChops.screen(picture, halo)
    disc = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(disc).circle(centre, radius, fill=255)
    picture.paste(light, mask=disc.filter(ImageFilter.GaussianBlur(1.5)))
    return picture


def _ridge(rng: random.Random, base: float, height: float) -> list[tuple[float, float]]:
    """Return a skyline as points from left to right: a sum of waves, each shorter and lower than the one before."""
    waves = [
        (rng.uniform(0.7, 1.3) * 2**octave, height * 0.5**octave, rng.uniform(0, 2 * math.pi)) for octave in range(1, 8)
    ]
    points: list[tuple[float, float]] = []
    for x in range(0, SIDE + 4, 4):
        rise = sum(size * math.sin(x / SIDE * rate * math.pi + shift) for rate, size, shift in waves)
        points.append((x, base - height * 0.4 - rise))
    return points


def _hills(picture: Image.Image, rng: random.Random, horizon: int, colours: Palette, *, water: bool) -> None:
    _, low, _, far, near = colours
    draw = ImageDraw.Draw(picture)
    layers = 4 if water else 6
    for layer in range(layers):
        depth = layer / (layers - 1)
        base = horizon + (layer * 14 if water else 30 + layer * 68)
        points = _ridge(rng, base, 120 - 60 * depth)
        colour = _mix(_mix(low, far, 0.35 + depth * 0.65), near, depth * (0.35 if water else 0.8))
        draw.polygon([(0, SIDE), *points, (SIDE, SIDE)], fill=colour)


def _water(picture: Image.Image, rng: random.Random, horizon: int, sun: int, light: Colour) -> None:
    """Paint the reflection of sky and hills: upside down and darker, with a path of light under the sun."""
    shore = horizon + 36
    depth = SIDE - shore
    above = picture.crop((0, max(shore - depth, 0), SIDE, shore)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    reflection = above.resize((SIDE, depth)).filter(ImageFilter.GaussianBlur(3))
    reflection = reflection.point([round(value * 0.78) for value in range(256)] * 3)
    draw = ImageDraw.Draw(reflection)
    for _ in range(420):
        y = depth * rng.random() ** 1.4
        width = 4 + y / depth * rng.uniform(10, 90)
        x = rng.gauss(sun, 26 + y * 0.32)
        shine = reflection.getpixel((min(max(round(x), 0), SIDE - 1), min(round(y), depth - 1)))
        assert isinstance(shine, tuple)  # noqa: S101  an RGB picture gives three values; this tells the type checker
        colour = _mix((shine[0], shine[1], shine[2]), light, rng.uniform(0.15, 0.6))
        draw.line((x - width / 2, y, x + width / 2, y), fill=colour, width=1 + round(y / depth * 2))
    picture.paste(reflection, (0, shore))


def _foreground(picture: Image.Image, rng: random.Random, near: Colour) -> None:
    draw = ImageDraw.Draw(picture)
    dark = _mix(near, BLACK, 0.35)
    points = _ridge(rng, 985, 34)
    draw.polygon([(0, SIDE), *points, (SIDE, SIDE)], fill=dark)
    for x, y in rng.sample(points, 70):
        height = rng.uniform(14, 64)
        if rng.random() < 0.3:
            for tier in range(4):
                top, half = y - height * 2 + tier * height * 0.4, height * (0.1 + tier * 0.1)
                draw.polygon([(x, top), (x - half, top + height * 0.65), (x + half, top + height * 0.65)], fill=dark)
        draw.line((x, y + 10, x + rng.uniform(-10, 10), y - height * 0.5), fill=dark, width=2)


def _lighthouse(picture: Image.Image, rng: random.Random, horizon: int, near: Colour, light: Colour) -> Image.Image:
    x, foot, top = rng.choice((rng.randint(150, 330), rng.randint(700, 870))), horizon + 60, horizon - 190
    beam = Image.new("RGB", (SIDE, SIDE))
    reach = SIDE if x < SIDE / 2 else -SIDE
    cone = [(x, top), (x + reach, top - 170), (x + reach, top + 40)]
    ImageDraw.Draw(beam).polygon(cone, fill=_mix(BLACK, light, 0.4))
    picture = ImageChops.screen(picture, beam.filter(ImageFilter.GaussianBlur(14)))
    draw = ImageDraw.Draw(picture)
    dark = _mix(near, BLACK, 0.2)
    draw.chord((x - 150, foot - 26, x + 150, foot + 50), 180, 360, fill=dark)
    draw.chord((x - 138, foot - 2, x + 138, foot + 26), 0, 180, fill=_mix(dark, light, 0.12))
    white, red = _mix(light, near, 0.15), _mix((190, 50, 46), near, 0.2)
    edges = [(top + 30 + band * (foot - top - 40) / 5, 17 + band * 2.6) for band in range(6)]
    for band, ((upper, half), (lower, wider)) in enumerate(pairwise(edges)):
        corners = [(x - half, upper), (x + half, upper), (x + wider, lower), (x - wider, lower)]
        draw.polygon(corners, fill=(white, red)[band % 2])
    draw.rectangle((x - 25, top + 22, x + 25, top + 30), fill=dark)
    draw.rectangle((x - 13, top - 8, x + 13, top + 22), fill=light)
    draw.polygon([(x - 20, top - 8), (x + 20, top - 8), (x, top - 32)], fill=dark)
    return picture


def _mark(picture: Image.Image) -> Image.Image:
    """Return the picture with the word SANDBOX in the lower right corner."""
    font = ImageFont.load_default(20)
    draw = ImageDraw.Draw(picture, "RGBA")
    left, top, right, bottom = draw.textbbox((SIDE - 20, SIDE - 18), "SANDBOX", font=font, anchor="rs")
    draw.rounded_rectangle((left - 10, top - 7, right + 10, bottom + 7), 8, fill=(0, 0, 0, 120))
    draw.text((SIDE - 20, SIDE - 18), "SANDBOX", font=font, anchor="rs", fill=(255, 255, 255, 225))
    return picture
