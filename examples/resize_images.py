"""Two stages that resize images, with a step between them that no crash can split.

    pip install 'pyqueue-redis[embedded,examples]'
    export PYQUEUE_URL=embedded:
    python examples/resize_images.py fill photos 20    # makes 20 photos and pushes their names
    python examples/resize_images.py work photos       # in as many terminals as you like

The first stage takes `originals/NAME.png`, removes what thumbnails do not need and writes
`normal/NAME.png`. The second makes one thumbnail of one size of it. `complete(push=…)` ends the
first stage of a photo and pushes its three thumbnails in one script: wherever a worker is killed,
each photo is still to do, or its thumbnails are.

Each worker helps with the first stage until that is drained, then with the second.
"""

import argparse
import functools
import json
import random
import sys
from pathlib import Path

from PIL import Image

from pyqueue import Lease, Message, Queue, Worker

# The same tag, so that one script can write to both.
NORMALIZE = "{photos}normalize"
THUMBNAIL = "{photos}thumbnail"
WIDTHS = (64, 128, 256)


def fill(folder: Path, count: int) -> None:
    """Makes photos, of noise, and pushes their names."""
    (folder / "originals").mkdir(parents=True, exist_ok=True)
    names = [f"photo-{number:04}" for number in range(count)]
    for name in names:
        color = tuple(random.randrange(256) for _ in range(3))
        noise = Image.effect_noise((1200, 800), sigma=40).convert("RGB")
        photo = Image.blend(noise, Image.new("RGB", noise.size, color), 0.5)
        photo.save(folder / "originals" / f"{name}.png")
    Queue(NORMALIZE).push_many(names)


def save(image: Image.Image, path: Path, token: int) -> None:
    """Writes the image as a whole or not at all, so that it may be written twice: two workers can
    be at the same photo when one of them was away for longer than its lease.
    """
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(f"{path.stem}.{token}.part")
    image.save(beside, format="PNG")
    beside.replace(path)


def normalize(folder: Path, lease: Lease) -> None:
    """The first stage: a photo, and what follows from it."""
    name = lease.text
    with Image.open(folder / "originals" / f"{name}.png") as image:
        image.thumbnail((1024, 1024))
        save(image, folder / "normal" / f"{name}.png", lease.token)
    lease.complete(
        push=[
            Message(json.dumps({"name": name, "width": width}), queue=THUMBNAIL) for width in WIDTHS
        ]
    )
    print(f"normalize {name}", flush=True)


def thumbnail(folder: Path, lease: Lease) -> None:
    """The second stage: one thumbnail. The worker completes the item when this returns."""
    job = json.loads(lease.payload)
    with Image.open(folder / "normal" / f"{job['name']}.png") as image:
        image.thumbnail((job["width"], job["width"]))
        path = folder / "thumbnails" / f"{job['name']}-{job['width']}.png"
        save(image, path, lease.token)
    print(f"thumbnail {job['name']} {job['width']}", flush=True)


def work(folder: Path, ttl: float) -> int:
    """Works until all is done, by this and every other worker; returns the exit code."""
    for name, stage in ((NORMALIZE, normalize), (THUMBNAIL, thumbnail)):
        # The first queue is drained when its last photo is completed, and so pushed on: there is no
        # moment at which the second one looks drained too early.
        handler = functools.partial(stage, folder)
        code = Worker(Queue(name), handler, concurrency=2, ttl=ttl, until="drained").run()
        if code != 0:
            return code
    return 0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=["fill", "work"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int, nargs="?", default=20, help="how many photos to make")
    parser.add_argument("--ttl", type=float, default=30, help="how soon others take over, seconds")
    args = parser.parse_args()
    if args.command == "fill":
        fill(args.folder, args.count)
    else:
        sys.exit(work(args.folder, args.ttl))


if __name__ == "__main__":
    main()
