"""Coverage-guided fuzzing of everything that reads data from outside. It is not part of the suite.

    pip install atheris
    python tests/fuzz.py answers -runs=1000000     every reader of the API's answers
    python tests/fuzz.py pictures -runs=1000000    formats, recipes and, for one input of 16, full decoding

`test_properties.py` says what must hold. The first inputs are made in a temporary folder. Further arguments
are for libFuzzer, which prints an input that fails, and keeps it in the current folder.
"""

import json
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

# It has no type stubs, and no wheels for every Python. Only people who fuzz install it.
atheris: Any = import_module("atheris")

with atheris.instrument_imports(include=["mcp_vega"]):
    import test_properties as properties

    from mcp_vega.imaging import metadata
    from mcp_vega.segmind.response import ApiResponse

FIGURES = [None, True, 0, -1, 1e999, 10**14, 0.0025]
TEXTS = ["", "r1", "SUCCESS", '{"seed": 7}', "\ud800\x1b[2J", properties.KEY, *properties.SAYINGS]
LEAVES: list[Any] = [*FIGURES, *TEXTS, b64encode(properties.FORMATS["PNG"]).decode()]


def grown(provider: Any, depth: int = 5) -> Any:
    """A JSON value made of words that the API uses; the input's bytes choose it."""
    match provider.ConsumeIntInRange(0, 5) if depth else 0:
        case 0 | 1:
            return LEAVES[provider.ConsumeIntInRange(0, len(LEAVES) - 1)]
        case 2:
            return provider.ConsumeUnicode(12)
        case 3:
            return [grown(provider, depth - 1) for _ in range(provider.ConsumeIntInRange(0, 3))]
        case _:
            last = len(properties.FIELDS) - 1
            numbers = [int(provider.ConsumeIntInRange(0, last)) for _ in range(provider.ConsumeIntInRange(1, 6))]
            return {properties.FIELDS[number]: grown(provider, depth - 1) for number in numbers}


def answers(data: bytes) -> None:
    """Read `data` as a response. Its first line is the status, then come the headers, an empty line, and the body."""
    head, _, body = data.partition(b"\n\n")
    if body.startswith(b"*"):
        body = json.dumps(grown(atheris.FuzzedDataProvider(body[1:]))).encode()
    status, *lines = head.decode("latin-1").split("\n")
    digits = status.strip()
    pairs = (line.partition(": ") for line in lines)
    properties.check_response(
        ApiResponse(
            100 + int(digits) % 500 if digits.isascii() and digits.isdecimal() and len(digits) < 5 else 200,
            {name.lower(): value for name, _, value in pairs},
            body,
        )
    )


def pictures(data: bytes) -> None:
    """Read `data` as a picture."""
    properties.check_picture(data, decoded=crc32(data) % 16 == 0)


def beginnings_of_answers() -> list[bytes]:
    """One response of each kind that the API is known to send. A status is 100 less than the real one."""
    picture = properties.FORMATS["JPEG"]
    text = b64encode(picture).decode()
    metrics = {"cost": 0.00225, "inference_time": 2.4, "remaining_credits": 9.8}
    row = {
        "request_id": "r1",
        "model_name": "segmind-vega",
        "model_status": "COMPLETED",
        "credits_deduction": 0.0045,
        "request_body": "{'prompt': 'a fox', 'seed': 7}",
        "generation_url": properties.MEDIA,
        "model_created": "2026-11-20T11:59:58.5",
        "error": "boom",
    }
    bodies: list[Any] = [
        {"status": "COMPLETED", "request_id": "r1", "images": [{"url": properties.MEDIA}], "metrics": metrics},
        {"status": "FAILED", "error": {"message": f"NSFW {properties.KEY}"}, "metrics": metrics},
        {"status": "QUEUED", "request_id": "r1"},
        {"image": [text, f"data:image/jpeg;base64,{text}"], "seed": "[7]", "infer_time": 2.1},
        {"output": {"image_url": properties.MEDIA}, "error": ["no"], "detail": [{"msg": "no"}]},
        {"credits": 9.8, "free-credits": "1"},
        {"data": [row, {**row, "generation_url": None}]},
        {"data": row},
        row,
    ]
    headers = "x-cost: 0.00225\nx-seed-value: [7]\nx-request-id: r1\ndate: Fri, 20 Nov 2026 12:00:00 GMT"
    reset = "x-rate-limit-reset-at-utc: 2026-11-20T12:00:00"
    made = [f"{status}\n{headers}\n\n*".encode() + bytes(range(3 * status % 256)) for status in (100, 102, 322, 400)]
    made += [f"{status}\n{headers}\n\n{json.dumps(body)}".encode() for status in (100, 322) for body in bodies]
    return [*made, f"329\n{reset}\n\n".encode(), b"100\ncontent-type: image/jpeg\n\n" + picture, b"400\n\n<html>"]


def beginnings_of_pictures() -> list[bytes]:
    """A picture of each kind, with its recipe and without."""
    found = list(properties.FORMATS.values())
    return [*found, *(metadata.embed(each, properties.RECIPE) for each in found)]


WORDS = ["FAILED", "COMPLETED", "request_id", "images", "image_url", "metrics", "model_created", "request_body", "null"]
MARKS = [
    "\\xff\\xd8\\xff",
    "\\xff\\xe0",
    "\\xff\\xe1",
    "\\xff\\xfe",
    "\\xff\\xda",
    "\\xff\\xd9",
    "IHDR",
    "iTXt",
    "IEND",
]
TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]], list[str]]] = {
    "answers": (answers, beginnings_of_answers, WORDS),
    "pictures": (pictures, beginnings_of_pictures, MARKS),
}


def main() -> None:
    """Fuzz the target that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"Name one of {', '.join(TARGETS)}")
    target, beginnings, words = TARGETS[sys.argv[1]]
    folder = Path(tempfile.mkdtemp())  # it must stay until the process ends, which libFuzzer does itself
    (folder / "inputs").mkdir()
    for number, beginning in enumerate(beginnings()):
        (folder / "inputs" / str(number)).write_bytes(beginning)
    (folder / "words").write_text("".join(f'"{word}"\n' for word in words), encoding="utf-8")
    given = [f"-dict={folder / 'words'}", "-max_len=8192", *sys.argv[2:], str(folder / "inputs")]
    atheris.Setup([sys.argv[0], *given], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
