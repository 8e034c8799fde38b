"""The options of the commands that serve an API in place of Segmind's, and of the one that fetches what one needs."""

from mcp_vega.cli.parser.usage import Parser
from mcp_vega.cli.parser.values import amount, whole


def add_sandbox(parser: Parser) -> None:
    """The options of `mcp-vega sandbox`."""
    parser.description = (
        "Serve a stand-in for the Segmind API on this machine. It accepts every key that begins with SG_. It draws no "
        "real pictures and costs nothing."
    )
    _add_address(parser, 8765)
    parser.add_argument(
        "--speed", type=amount, default="1", help="1 (default): calls take as long as at the API; 0: they take no time"
    )
    parser.add_argument(
        "--credits", type=amount, default="10", metavar="USD", help="the account's balance; default: 10"
    )
    parser.add_argument(
        "--rate-limit", type=whole(0), default=0, metavar="N", help="paid calls a minute; 0 (default) is no limit"
    )


def add_engine(parser: Parser) -> None:
    """The options of `mcp-vega engine`."""
    parser.description = (
        "Draw on this machine with the open weights of Segmind-Vega and VegaRT, behind the same HTTP API as Segmind's. "
        "Servers and `mcp-vega draw` with --local use the engine that this user runs; if there is none, they start one."
    )
    _add_address(parser, 8764)
    parser.add_argument(
        "--weights",
        metavar="FOLDER",
        help="the folder with Segmind-Vega and Segmind-VegaRT; default: MCP_VEGA_WEIGHTS, or your Hugging Face cache",
    )
    parser.add_argument(
        "--device", choices=("auto", "cuda", "mps", "cpu"), default="auto", help="what to draw on; default: auto"
    )
    parser.add_argument(
        "--backend",
        metavar="URL",
        help="draw through a server that you already run and that speaks POST /sdapi/v1/txt2img, such as "
        "http://127.0.0.1:7860; needs no weights here",
    )
    parser.add_argument(
        "--idle-minutes",
        type=whole(1, 99_999),
        metavar="N",
        help="end after so many minutes without a call; default: never",
    )


def add_weights(parser: Parser) -> None:
    """The options of `mcp-vega weights`."""
    parser.description = (
        "Fetch the open weights of Segmind-Vega and Segmind-VegaRT into your Hugging Face cache. Says first what it "
        "would fetch, and asks. What was interrupted is continued."
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--status", action="store_true", help="only say which weights are there")
    instead.add_argument("--remove", action="store_true", help="delete the fetched weights; asks first")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _add_address(parser: Parser, port: int) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    parser.add_argument("--port", type=whole(0, 65535), default=port, help=f"0 picks a free one; default: {port}")
