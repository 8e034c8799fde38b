"""The commands and their options."""

from argparse import SUPPRESS, RawDescriptionHelpFormatter

from mcp_vega import __version__
from mcp_vega.cli.parser.apis import add_engine, add_sandbox, add_weights
from mcp_vega.cli.parser.usage import Parser
from mcp_vega.cli.parser.values import amount, day, whole

SANDBOX = "no key, no network, no cost: pictures are painted on this machine"
LOCAL = "no key, no cost: draw on this machine with the open weights (see `mcp-vega weights`)"
# The options by which other programs set the size of a picture.
SIZES = ("--size", "--width", "--height", "--img-width", "--img-height", "--resolution", "--aspect-ratio")


def build_parser() -> Parser:
    """The commands and their options, as docs/settings.md lists them."""
    parser = Parser(
        prog="mcp-vega",
        description="An MCP server that draws pictures with Segmind's Vega models. Without a command it runs the "
        "server: over stdio, unless --transport says otherwise.",
        epilog='A first picture without a key and without cost: mcp-vega draw "a lighthouse at dusk" --sandbox. '
        "The README and the folder docs of the repository explain all commands and settings.",
    )
    parser.add_argument("--version", action="version", version=f"mcp-vega {__version__}")
    _add_sandbox(parser, default=False)
    _add_local(parser, default=False)
    parser.add_argument(
        "--transport", choices=("stdio", "sse", "http"), default="stdio", help="how to serve MCP; default: stdio"
    )
    # Names of their own: the sandbox command has options that are spelled alike.
    parser.add_argument("--host", dest="serve_host", metavar="HOST", help="for sse and http; default: 127.0.0.1")
    parser.add_argument(
        "--port",
        dest="serve_port",
        metavar="PORT",
        type=whole(0, 65535),
        help="for sse and http; 0 picks a free one; default: 8000",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="serve other machines without access tokens (MCP_VEGA_AUTH_TOKENS)"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_draw(commands.add_parser("draw", help="draw a picture from the command line"))
    _add_jobs(commands.add_parser("jobs", help="list the latest jobs"))
    _add_gallery(commands.add_parser("gallery", help="show the pictures in the browser, or their folder"))
    _add_recipe(commands.add_parser("recipe", help="print how a picture was drawn"))
    _add_install(commands.add_parser("install", help="add this server to an MCP host"))
    _add_uninstall(commands.add_parser("uninstall", help="remove this server from an MCP host"))
    _add_doctor(commands.add_parser("doctor", help="check everything that the server needs"))
    _add_export(commands.add_parser("export", help="write all jobs and pictures to a file, to move or back them up"))
    _add_import(commands.add_parser("import", help="add the jobs and pictures of such a file"))
    _add_completion(commands.add_parser("completion", help="print the script that completes commands in a shell"))
    add_sandbox(commands.add_parser("sandbox", help="serve a stand-in for the Segmind API"))
    add_engine(commands.add_parser("engine", help="draw on this machine, behind the same HTTP API as Segmind's"))
    add_weights(commands.add_parser("weights", help="fetch the open weights for drawing on this machine"))
    return parser


def _add_sandbox(parser: Parser, *, default: bool | str, text: str = SANDBOX) -> None:
    parser.add_argument("--sandbox", action="store_true", default=default, help=text)


def _add_local(parser: Parser, *, default: bool | str, text: str = LOCAL) -> None:
    parser.add_argument("--local", action="store_true", default=default, help=text)


def _add_draw(parser: Parser) -> None:
    parser.description = (
        "Draw a picture and print its path; a terminal also shows it. Parameters not given have the models' documented "
        "defaults."
    )
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        nargs="*",
        help="what to draw; several words are joined; - reads prompts from stdin, one a line",
    )
    parser.add_argument("--prompts", metavar="FILE", help="draw one picture for each line of a text file; - is stdin")
    parser.add_argument("--model", help="vega (default) or vegart, or a full model name")
    parser.add_argument(
        "--like",
        metavar="PICTURE",
        help="use the recipe of an earlier picture; PICTURE is its file, id or URI; other options override the recipe",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="also write the picture to FILE; the ending (.jpg, .png or .webp) decides the format, and without an "
        "ending the picture is unchanged; further pictures get a number, as in fox-2.jpg; FILE may be a folder",
    )
    parser.add_argument("--open", action="store_true", help="open the pictures with the desktop's program")
    parser.add_argument(
        "--json", action="store_true", help="print JSON instead of paths: one line with one object for each prompt"
    )
    # Suppressed, so that `mcp-vega --sandbox draw …` is not undone by this parser's default.
    _add_sandbox(parser, default=SUPPRESS)
    _add_local(parser, default=SUPPRESS)
    parser.absent = dict.fromkeys(SIZES, "pictures are always 1024×1024")
    group = parser.add_argument_group("parameters of the models")
    group.add_argument("--negative-prompt", metavar="TEXT", help="what to exclude (vega)")
    group.add_argument("--samples", metavar="N", help="how many pictures, 1 to 4 (vega)")
    group.add_argument("--scheduler", metavar="NAME", help="default: DPM2 Karras (vega)")
    group.add_argument("--steps", dest="num_inference_steps", metavar="N", help="20 to 100 (vega), 4 to 10 (vegart)")
    group.add_argument("--guidance-scale", metavar="X", help="1 to 25 (vega)")
    group.add_argument(
        "--seed", metavar="N", help="the same seed and parameters draw the same picture; -1 picks a random seed"
    )


def _add_jobs(parser: Parser) -> None:
    parser.description = (
        "List the latest jobs of this user, newest first, whichever server began them. With ID, show one job in full."
    )
    parser.add_argument(
        "id",
        metavar="ID",
        nargs="?",
        help="show one job in full; ID is the id of the job or of one of its pictures (8 digits are enough), the URI "
        "of either, or the name of a picture's file",
    )
    parser.add_argument(
        "--limit",
        type=whole(1, 999_999_999),
        metavar="N",
        help="how many jobs to list (with --spent: how many days); default: 20 (with --since: all)",
    )
    parser.add_argument(
        "--since",
        type=day,
        metavar="DAY",
        help="only since this day (UTC), such as 2026-11-20, or only the last days, such as 7d (today and the 6 days "
        "before)",
    )
    parser.add_argument("--spent", action="store_true", help="add up what was spent on each day (UTC), by model")
    parser.add_argument("--by", choices=("model", "caller"), help="what --spent is split by; default: model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_sandbox(parser, default=SUPPRESS, text="look in the sandbox's ledger")


def _add_gallery(parser: Parser) -> None:
    parser.description = (
        "Show the pictures on a page in the browser. Only this machine can reach the page. It ends with Ctrl-C, or "
        "when nobody has looked at it for an hour."
    )
    parser.add_argument("--print", action="store_true", help="print the page's address, and open no browser")
    parser.add_argument(
        "--port",
        dest="page_port",
        metavar="PORT",
        type=whole(0, 65535),
        help="the page's port; 0 picks a free one; default: 0",
    )
    parser.add_argument(
        "--folder",
        action="store_true",
        help="print the folder of the pictures (it has a folder for each day, UTC), and the number and the total size "
        "of the pictures",
    )
    parser.add_argument("--open", action="store_true", help="open the folder")
    parser.add_argument(
        "--prune",
        type=whole(0, 99999),
        metavar="DAYS",
        help="delete pictures without a star that were drawn DAYS times 24 hours ago or earlier; asks first",
    )
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    _add_sandbox(parser, default=SUPPRESS, text="show the sandbox's pictures")


def _add_recipe(parser: Parser) -> None:
    parser.description = "Print how a picture was drawn: from its file or, if that has no recipe, from the ledger."
    parser.add_argument(
        "file",
        metavar="PICTURE",
        help="the path of a picture's file, the id of a picture or job (8 digits are enough), the URI of either, or "
        "the name of a file in the gallery",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_sandbox(parser, default=SUPPRESS, text="look in the sandbox's ledger")


def _add_install(parser: Parser) -> None:
    from mcp_vega.cli.install import NAMES

    parser.description = (
        "Add this server to an MCP host: one entry, vega, next to the servers that are there. Without HOST it finds "
        "the hosts on this machine and asks which of them to change."
    )
    one_of = f"one of {', '.join(NAMES)}"
    parser.add_argument("host", metavar="HOST", nargs="?", type=str.lower, choices=NAMES, help=one_of)
    parser.add_argument(
        "--url",
        help="add a server that runs elsewhere, by its https URL; asks for the access token, or takes MCP_VEGA_TOKEN",
    )
    parser.add_argument("--print", action="store_true", help="print the entry, for any host, and change nothing")
    _add_sandbox(parser, default=SUPPRESS, text="write an entry with --sandbox, which needs no key")
    _add_local(parser, default=SUPPRESS, text="write an entry with --local, which needs no key")
    _add_consent(parser)


def _add_uninstall(parser: Parser) -> None:
    from mcp_vega.cli.install import NAMES

    parser.description = "Remove this server's entry, vega, from an MCP host."
    parser.add_argument("host", metavar="HOST", type=str.lower, choices=NAMES, help=f"one of {', '.join(NAMES)}")
    _add_consent(parser)


def _add_consent(parser: Parser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _add_doctor(parser: Parser) -> None:
    parser.description = "Check everything that the server needs, and say how to fix what is bad."
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--paid",
        action="store_true",
        help="draw up to three pictures, after asking for each, and compare the API's answers with what this program "
        "assumes",
    )
    parser.add_argument(
        "--max-usd",
        type=amount,
        metavar="USD",
        help="the most that the pictures of --paid may cost together (by the API's price; if it reports none, by the "
        "estimate); default: 0.02",
    )
    parser.add_argument("--yes", action="store_true", help="draw the pictures of --paid without asking")
    _add_sandbox(parser, default=SUPPRESS, text="check what mcp-vega --sandbox would use; it needs no key")
    _add_local(parser, default=SUPPRESS, text="check what mcp-vega --local would use; it needs no key")


def _add_export(parser: Parser) -> None:
    parser.description = (
        "Write all jobs and pictures to FILE, a zip that `mcp-vega import` reads on another machine or for another "
        "ledger. Nothing is removed here. The file is as private as the pictures."
    )
    parser.add_argument("file", metavar="FILE", help="the file to write, such as vega.zip")
    parser.add_argument(
        "--owner",
        metavar="NAME",
        help="only the jobs of this caller (a name in MCP_VEGA_AUTH_TOKENS, or ISSUER#SUBJECT); default: all",
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    _add_sandbox(parser, default=SUPPRESS, text="export the sandbox's jobs")


def _add_import(parser: Parser) -> None:
    parser.description = (
        "Add the jobs and pictures of FILE to this ledger and gallery. Jobs and pictures that are there already are "
        "not written twice, so an import can be repeated."
    )
    parser.add_argument("file", metavar="FILE", help="a file that `mcp-vega export` has written")
    parser.add_argument(
        "--owner",
        metavar="NAME",
        help="give all jobs to this caller (a name in MCP_VEGA_AUTH_TOKENS, or ISSUER#SUBJECT); default: they keep "
        "their callers",
    )
    _add_sandbox(parser, default=SUPPRESS, text="import into the sandbox's ledger")


def _add_completion(parser: Parser) -> None:
    parser.description = (
        "Print the script that lets Tab complete this program's commands, options, hosts, models and jobs. Save it "
        "where the shell looks for it, and start a new shell."
    )
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = (
        "bash (with the package bash-completion):\n"
        "  mkdir -p ~/.local/share/bash-completion/completions\n"
        "  mcp-vega completion bash > ~/.local/share/bash-completion/completions/mcp-vega\n"
        "bash without that package, in ~/.bashrc:\n"
        '  eval "$(mcp-vega completion bash)"\n'
        "zsh, in ~/.zshrc after compinit:\n"
        '  eval "$(mcp-vega completion zsh)"\n'
        "fish:\n"
        "  mkdir -p ~/.config/fish/completions\n"
        "  mcp-vega completion fish > ~/.config/fish/completions/mcp-vega.fish"
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
