// The TypeScript SDK's client: calls, gives up in the given way, and immediately makes the same call again.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const { url, way, milliseconds, arguments: given } = JSON.parse(process.argv[2]);
const client = new Client({ name: "foreign", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
const call = { name: "generate_image_vega", arguments: given };
const options = way === "timeout" ? { timeout: milliseconds } : { signal: AbortSignal.timeout(milliseconds) };
if (way === "abort at once") {
  const controller = new AbortController();
  options.signal = controller.signal;
  setImmediate(() => controller.abort("changed its mind"));
}
let first = "";
try {
  await client.callTool(call, undefined, options);
} catch (error) {
  first = error.message;
}
const again = await client.callTool(call);
console.log(JSON.stringify({ first, again }));
await client.close();
