"""What a picture looks like to the tower: the canonical view, and random restylings for training."""

from __future__ import annotations

import random

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from milvus_coop.training.coop_small.pictures import on_background

CANVAS = 320  # px


def canonical(picture: Image.Image) -> Image.Image:
    """As the package shows a picture to the model: on white."""
    return on_background(picture)


def restyled(picture: Image.Image, seed: str) -> Image.Image:
    """A random view: place, scale, mirror, background, colour, blur and outline; the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311 - not for secrets
    image = _placed(picture, dice)
    if dice.random() < 0.5:
        image = ImageOps.mirror(image)
    for enhancer in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        if dice.random() < 0.6:
            image = enhancer(image).enhance(dice.uniform(0.5, 1.5))
    if dice.random() < 0.25:
        image = _shifted_hue(image, dice.randrange(-40, 41))
    if dice.random() < 0.15:
        image = ImageOps.grayscale(image).convert("RGB")
    if dice.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(dice.uniform(0.5, 2.5)))
    if dice.random() < 0.08:
        image = ImageOps.invert(image.filter(ImageFilter.FIND_EDGES))
    return image


def _placed(picture: Image.Image, dice: random.Random) -> Image.Image:
    """Scale, tilt and move the picture on a square of white or of one random colour."""
    colour = (255, 255, 255)
    if dice.random() < 0.5:
        low = dice.choice((0, 128, 200))
        colour = (dice.randint(low, 255), dice.randint(low, 255), dice.randint(low, 255))
    side = int(CANVAS * dice.uniform(0.55, 1.1))
    copy = ImageOps.contain(picture, (side, side))
    if dice.random() < 0.4:
        copy = copy.rotate(dice.uniform(-20, 20), Image.Resampling.BILINEAR, expand=True)
    canvas = Image.new("RGBA", (CANVAS, CANVAS), (*colour, 255))
    left, top = (int((CANVAS - length) * dice.random()) for length in copy.size)
    layer = Image.new("RGBA", canvas.size)
    layer.paste(copy, (left, top))
    return Image.alpha_composite(canvas, layer).convert("RGB")


def _shifted_hue(image: Image.Image, shift: int) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    moved = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (moved, saturation, value)).convert("RGB")
