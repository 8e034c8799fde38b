"""The MCP server over the job service. Errors become answers here."""

import logging
from base64 import b64encode
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any, TypeVar, cast

import mcp_types
from mcp.server.apps import Apps
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from pydantic import AnyUrl

from mcp_vega import __version__
from mcp_vega.errors import InternalError, InvalidArguments, UnknownImage, UnknownJob, VegaError
from mcp_vega.redaction import named
from mcp_vega.server import resources
from mcp_vega.server.client_info import CURRENT_CLIENT, ClientInfo
from mcp_vega.server.context import AppContext
from mcp_vega.server.notifications import Notifications
from mcp_vega.server.results import records
from mcp_vega.server.results.result import of_error
from mcp_vega.server.stdio.streams import serve_stdio
from mcp_vega.server.tools import DEFINITIONS, SANDBOX_NOTE
from mcp_vega.telemetry.log_context import answering
from mcp_vega.telemetry.measurements import tool_call

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

# Errors that the caller can correct.
CALLERS_ERRORS = (InvalidArguments, UnknownImage, UnknownJob)

TOOLS = {definition.name: definition for definition in DEFINITIONS}

# The methods that need the job service, besides the tools.
NEED_SERVICE = {"resources/list", "resources/read", "prompts/get", "completion/complete"}

INSTRUCTIONS = """\
Generate images from text with Segmind Vega (quality) and VegaRT (speed).
generate_image_vega and generate_image_vegart draw and return an image. submit_job queues one; check_job returns it.
Always give the user the path or URL at the end of a result: many hosts show them nothing else. {repeating} The same
seed and parameters draw the same image again. check_job without an id lists the latest jobs; the resource
vega://gallery?q=WORDS finds older images."""
PAID = "Each generate or submit call is paid for: if one times out or is still drawing, ask check_job; never repeat it."
FREE = "Calls are drawn on this machine and cost nothing: if one times out or is still drawing, ask check_job."


def build_server(app: AppContext, middleware: Sequence[ServerMiddleware[Any]] = ()) -> MCPServer[Any]:
    """The server with its tools, resources and prompts; the service in `app` must stay open while it runs.

    Each request goes through the `middleware` first.
    """
    return _VegaServer(app, middleware)


class _VegaServer(MCPServer[Any]):
    def __init__(self, app: AppContext, middleware: Sequence[ServerMiddleware[Any]]) -> None:
        self._app = app
        self._notifications = Notifications(app.service)
        icon = b64encode((files("mcp_vega.server") / "static" / "icon.png").read_bytes()).decode()
        super().__init__(
            "mcp-vega",
            title="Vega image generation",
            description="Generate images with Segmind-Vega and Segmind-VegaRT",
            instructions=_instructions(app),
            version=__version__,
            icons=[mcp_types.Icon(src=f"data:image/png;base64,{icon}", mime_type="image/png", sizes=["64x64"])],
            lifespan=self._notifications.connected,
            subscriptions=self._notifications.bus,
            extensions=[_view()],
            middleware=[*middleware, self._around_each_request],
        )
        self.completion()(self._complete)

    async def run_stdio_async(self) -> None:
        await serve_stdio(self._lowlevel_server)

    async def _around_each_request(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Note the client, and once a host has its first answer, continue the jobs that an earlier server left."""
        client = ClientInfo.of(ctx)
        CURRENT_CLIENT.set(client)
        if self._app.problem and ctx.method in NEED_SERVICE and (ctx.params or {}).get("uri") != resources.VIEW:
            raise _protocol_error(self._app, self._app.problem)
        if ctx.method == "prompts/get":
            from mcp_vega.server import prompts

            ctx = replace(ctx, params=prompts.as_texts(ctx.params))
        with answering(ctx.request_id):
            answer = await _with_protocol_errors(self._app, call_next(ctx))
        self._notifications.note_client(ctx, answer)
        if isinstance(answer, dict) and ctx.method != "server/discover":
            _shorten_meta(answer, client)
        if not self._app.problem:
            self._app.service.resume_orphans()
        return answer

    async def list_tools(self) -> list[mcp_types.Tool]:
        return [definition.shown(sandbox=self._app.sandbox, local=self._app.local) for definition in DEFINITIONS]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> mcp_types.CallToolResult:
        with tool_call(name if name in TOOLS else "unknown") as call:
            result = await self._answer(name, arguments, context or Context(mcp_server=self))
            call.error = "tool_error" if result.is_error else ""
        return result

    async def _answer(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any]
    ) -> mcp_types.CallToolResult:
        if name not in TOOLS:
            error = InvalidArguments(f"There is no tool {named(name)}", next_step=f"Call one of {', '.join(TOOLS)}")
            return of_error(self._app, error)
        if self._app.problem:
            return of_error(self._app, self._app.problem)
        try:
            asked = TOOLS[name].arguments.parse(arguments)
            return await TOOLS[name].run(self._app, asked, context)
        except VegaError as error:
            logger.info("%s was answered with the error %s", name, error.code)  # its text may quote the prompt
            return of_error(self._app, error)
        except MCPError:
            raise
        except Exception as error:
            logger.exception("%s broke", name)
            broken = InternalError(f"The server broke while it answered ({type(error).__name__})")
            return of_error(self._app, broken)

    async def list_resources(self) -> list[mcp_types.Resource]:
        return [*await super().list_resources(), *await resources.listed(self._app, CURRENT_CLIENT.get().owner)]

    async def list_resource_templates(self) -> list[mcp_types.ResourceTemplate]:
        return resources.TEMPLATES

    async def read_resource(
        self,
        uri: AnyUrl | str,
        context: Context[Any, Any] | None = None,
    ) -> Iterable[ReadResourceContents] | mcp_types.InputRequiredResult:
        if str(uri) == resources.VIEW:
            return await super().read_resource(uri, context)
        # The SDK's own templates have a fixed MIME type; that of a picture depends on its bytes.
        return await resources.read(self._app, str(uri), CURRENT_CLIENT.get())

    async def list_prompts(self) -> list[mcp_types.Prompt]:
        from mcp_vega.server import prompts

        return [definition.shown for definition in prompts.DEFINITIONS]

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[Any, Any] | None = None,  # noqa: ARG002  the SDK's signature
    ) -> mcp_types.GetPromptResult:
        from mcp_vega.server import prompts

        return await prompts.get(self._app, name, arguments or {}, CURRENT_CLIENT.get().owner)

    async def _complete(
        self,
        reference: mcp_types.PromptReference | mcp_types.ResourceTemplateReference,
        argument: mcp_types.CompletionArgument,
        _: mcp_types.CompletionContext | None,
    ) -> mcp_types.Completion | None:
        owner = CURRENT_CLIENT.get().owner
        if isinstance(reference, mcp_types.PromptReference):
            from mcp_vega.server import prompts

            answer = prompts.completion(self._app, reference.name, argument.name, argument.value, owner)
        else:
            answer = resources.completion(self._app, reference.uri, argument.name, argument.value, owner)
        # Here, because the SDK has texts of its own for the errors of this handler.
        return await _with_protocol_errors(self._app, answer)


def _instructions(app: AppContext) -> str:
    text = INSTRUCTIONS.format(repeating=FREE if app.local else PAID)
    return f"{text}\n{SANDBOX_NOTE}" if app.sandbox else text


def _view() -> Apps:
    """The MCP Apps extension with the only app; `tools.py` binds the tools to it."""
    view = Apps()
    view.add_html_resource(
        resources.VIEW,
        resources.view_html(),
        name="view",
        title="Pictures and their recipes",
        description="The pictures of a result with their recipes, for hosts that render MCP Apps.",
        prefers_border=True,
    )
    return view


def _shorten_meta(answer: dict[str, Any], client: ClientInfo) -> None:
    """Remove from an answer's `_meta` what the client has already, or has no use for.

    Since 2026-07-28 the SDK puts all that the server says about itself there: 2.3 kB with the icon. The client has it
    from `server/discover`; the protocol asks for the name and the version in every answer.
    """
    if client.text_only:
        answer.pop("_meta", None)
    elif info := cast("dict[str, Any]", (answer.get("_meta") or {}).get(mcp_types.SERVER_INFO_META_KEY)):
        short = {name: info[name] for name in ("name", "version")}
        answer["_meta"] = {**answer["_meta"], mcp_types.SERVER_INFO_META_KEY: short}


async def _with_protocol_errors(app: AppContext, answer: Awaitable[ResultT]) -> ResultT:
    """The result of a method other than a tool call; its errors become errors of the protocol."""
    try:
        return await answer
    except VegaError as error:
        raise _protocol_error(app, error) from error
    except OSError as error:  # the SDK's own text would contain a path
        logger.exception("The server broke")
        broken = InternalError(f"The server broke while it answered ({type(error).__name__})")
        raise _protocol_error(app, broken) from error


def _protocol_error(app: AppContext, error: VegaError) -> MCPError:
    error = records.error_for(app, error, CURRENT_CLIENT.get())
    code = mcp_types.INVALID_PARAMS if isinstance(error, CALLERS_ERRORS) else mcp_types.INTERNAL_ERROR
    return MCPError(code, error.text, records.error_data(error))
