"""What a model reads: the tokens and bytes of the tools, of the instructions and of the text of a picture's result.

    pip install bpe-openai
    python benchmarks/tokens.py [--pictures 5]

A real server answers over stdio: once with a stand-in for Segmind, once as the sandbox. The tokens are those of
o200k_base for compact JSON without `_meta`, which hosts keep from the model. The tokenizer has 42 MB and is needed here
alone, so it is in no group of dependencies.

Ids and drawn seeds differ from picture to picture, and so do their tokens: the program prints the median, lowest and
highest. In the texts, the folder of the gallery is replaced by one of usual length.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from host import HELLO, Host

from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox
from mcp_vega.sandbox.serving import serving

FOLDER = "/home/ada/Pictures/mcp-vega"
PROMPTS: dict[str, dict[str, Any]] = {
    "a short prompt and a seed of one digit": {"prompt": "a lighthouse at dusk", "seed": 7},
    "a prompt of 92 characters and a drawn seed": {
        "prompt": "A lighthouse on a rocky cliff at dusk, warm light in the windows, storm clouds, oil painting"
    },
}
Count = Callable[[str], int]


def counter() -> Count:
    """The function that counts the tokens of a text."""
    try:
        # By its name, because type checkers do not find it either.
        encoding: Any = import_module("bpe_openai").get_encoding("o200k_base")
    except ImportError:
        raise SystemExit("Install the tokenizer: pip install bpe-openai") from None
    return lambda text: len(encoding.encode(text))


def compact(value: Any) -> str:
    """A value as JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@contextmanager
def server(folder: Path, base_url: str, *, sandbox: bool) -> Generator[Host]:
    """A server over stdio that has not been greeted yet."""
    folder.mkdir()
    host = Host(folder, base_url, MCP_VEGA_SANDBOX=str(int(sandbox)))
    try:
        yield host
    finally:
        host.leave()


def answered(host: Host, method: str, **params: Any) -> dict[str, Any]:
    """The result of a request."""
    host.send(method, **params)
    answer = host.receive()
    if "result" not in answer:
        raise SystemExit(f"no answer to {method}: {answer}")
    return answer["result"]


def print_lists(host: Host, count: Count, *, sandbox: bool) -> dict[str, int]:
    """Print what the tools and instructions take; returns what the targets are about."""
    hello = answered(host, "initialize", **HELLO)
    host.send_line(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    listed = answered(host, "tools/list")
    shown = [{name: value for name, value in tool.items() if name != "_meta"} for tool in listed["tools"]]
    rows = [(tool["name"], compact(tool)) for tool in shown]
    rows += [("all tools", compact(shown)), ("instructions", hello["instructions"])]
    print(f"{'sandbox' if sandbox else 'with a key':<24}{'tokens':>8}{'bytes':>8}")
    for name, text in rows:
        print(f"  {name:<22}{count(text):>8}{len(text.encode()):>8}")
    whole = len(compact(listed).encode())
    print(f"  {'tools/list with _meta':<22}{'':>8}{whole:>8}")
    tools = count(compact(shown))
    return {"tools": tools, "tools and instructions": tools + count(hello["instructions"]), "tools/list": whole}


def print_results(host: Host, count: Count, gallery: Path, pictures: int) -> dict[str, float]:
    """Print what the texts of pictures take; returns the medians."""
    medians: dict[str, float] = {}
    for name, arguments in PROMPTS.items():
        tokens: list[int] = []
        text = ""
        for _ in range(pictures):
            result = answered(host, "tools/call", name="generate_image_vega", arguments=arguments)
            text = result["content"][0]["text"].replace(str(gallery), FOLDER)
            if not text.startswith("Segmind-Vega drew "):
                raise SystemExit(text)
            tokens.append(count(text))
        medians[name] = statistics.median(tokens)
        print(f"  result of {name}: {medians[name]:.0f} tokens ({min(tokens)} to {max(tokens)})")
        print("".join(f"    {line}\n" for line in text.splitlines()), end="")
    return medians


def print_target(what: str, value: float, most: int, unit: str = "tokens") -> None:
    """Print whether a value keeps to its target."""
    print(f"target: {what} <= {most} {unit}: {'reached' if value <= most else 'missed'} {value:.0f}")


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5, help="how many pictures of each prompt")
    pictures = parser.parse_args().pictures
    count = counter()
    lists: dict[bool, dict[str, int]] = {}
    results: dict[bool, dict[str, float]] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(build_sandbox(Account(speed=0.02)))) as url,
    ):
        for sandbox in (False, True):
            folder = Path(name, str(sandbox)).resolve()
            with server(folder, url, sandbox=sandbox) as host:
                lists[sandbox] = print_lists(host, count, sandbox=sandbox)
                results[sandbox] = print_results(host, count, folder / "gallery", pictures)
    print_target("tools", lists[False]["tools"], 1400)
    print_target("tools and instructions", lists[False]["tools and instructions"], 1600)
    print_target("tools/list with _meta", lists[False]["tools/list"], 5500, "bytes")
    more = {name: lists[True][name] - lists[False][name] for name in lists[False]}
    print(
        f"The sandbox's note takes {more['tools']} tokens in the tools, {more['tools and instructions']} with the "
        f"instructions, {more['tools/list']} bytes."
    )
    for sandbox, medians in results.items():
        for name, median in medians.items():
            print_target(f"result{' of the sandbox' if sandbox else ''}, {name}", median, 150)


if __name__ == "__main__":
    main()
