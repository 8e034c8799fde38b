"""What a model reads: the tokens and bytes of the tools, of the instructions and of the text of a picture's result.

    pip install bpe-openai
    python benchmarks/tokens.py [--pictures 5]

A server answers over stdio: first with a key, then as the sandbox (`MCP_VEGA_SANDBOX`). The tokens are those of
o200k_base for JSON without spaces, icons and `_meta`, which hosts do not show to the model. The tokenizer has 42 MB,
and only benchmarks need it, so no group of dependencies contains it.

Ids and random seeds differ from picture to picture, and so do their tokens. The program prints the median, with the
lowest and the highest. In the texts, a path of usual length replaces the folder of the gallery.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from figures import print_target, spread
from host import HELLO, Host

from mcp_vega.network.serving import serving
from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox

FOLDER = "/home/ada/Pictures/mcp-vega"
PROMPTS: dict[str, dict[str, Any]] = {
    "a short prompt and a seed of one digit": {"prompt": "a lighthouse at dusk", "seed": 7},
    "a prompt of 92 characters and a random seed": {
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


def read_by_models(tools: Sequence[Mapping[str, Any]]) -> str:
    """The tools as compact JSON, without what is for the host alone."""
    return compact([{name: value for name, value in tool.items() if name not in ("_meta", "icons")} for tool in tools])


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
    shown = read_by_models(listed["tools"])
    rows = [(tool["name"], compact(tool)) for tool in json.loads(shown)]
    rows += [("all tools", shown), ("instructions", hello["instructions"])]
    print(f"{'sandbox' if sandbox else 'with a key':<24}{'tokens':>8}{'bytes':>8}")
    for name, text in rows:
        print(f"  {name:<22}{count(text):>8}{len(text.encode()):>8}")
    whole = len(compact(listed).encode())
    print(f"  {'tools/list with _meta':<22}{'':>8}{whole:>8}")
    tools = count(shown)
    return {"tools": tools, "tools and instructions": tools + count(hello["instructions"]), "tools/list": whole}


def print_results(host: Host, count: Count, gallery: Path, pictures: int) -> dict[str, list[int]]:
    """Print what the texts of pictures take; returns the tokens of each text."""
    found: dict[str, list[int]] = {}
    for name, arguments in PROMPTS.items():
        tokens: list[int] = []
        text = ""
        for _ in range(pictures):
            result = answered(host, "tools/call", name="generate_image_vega", arguments=arguments)
            text = result["content"][0]["text"].replace(str(gallery), FOLDER)
            if not text.startswith("Segmind-Vega drew "):
                raise SystemExit(text)
            tokens.append(count(text))
        found[name] = tokens
        print(f"  result for {name}: {spread(tokens)} tokens")
        print("".join(f"    {line}\n" for line in text.splitlines()), end="")
    return found


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5, help="how many pictures of each prompt")
    pictures = parser.parse_args().pictures
    count = counter()
    lists: dict[bool, dict[str, int]] = {}
    results: dict[bool, dict[str, list[int]]] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(build_sandbox(Account(speed=0.02)))) as url,
    ):
        for sandbox in (False, True):
            folder = Path(name, str(sandbox)).resolve()
            folder.mkdir()
            with Host(folder, url, MCP_VEGA_SANDBOX=str(int(sandbox))) as host:
                lists[sandbox] = print_lists(host, count, sandbox=sandbox)
                results[sandbox] = print_results(host, count, folder / "gallery", pictures)
    print_target("tools, tokens", 1400, lists[False]["tools"])
    print_target("tools and instructions, tokens", 1600, lists[False]["tools and instructions"])
    print_target("tools/list with _meta, bytes", 5500, lists[False]["tools/list"])
    more = {name: lists[True][name] - lists[False][name] for name in lists[False]}
    print(
        f"The sandbox's note takes {more['tools']} tokens in the tools, {more['tools and instructions']} with the "
        f"instructions, {more['tools/list']} bytes."
    )
    for sandbox, by_prompt in results.items():
        for name, counted in by_prompt.items():
            print_target(f"result{' of the sandbox' if sandbox else ''} for {name}, tokens", 150, *counted)


if __name__ == "__main__":
    main()
