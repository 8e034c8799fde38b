// The TypeScript SDK's client: draws a picture with the given server, and prints everything that it got.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const server = JSON.parse(process.argv[2]);
const transport = server.url
  ? new StreamableHTTPClientTransport(new URL(server.url))
  : new StdioClientTransport(server);
const client = new Client({ name: "foreign", version: "1" });
await client.connect(transport);
const { tools } = await client.listTools();
const { content, isError } = await client.callTool({ name: "generate_image_vega", arguments: { prompt: "a fox" } });
const uri = content[0].text.match(/^URI: (.+)$/m)[1];
const { contents } = await client.readResource({ uri });
const { resources } = await client.listResources();
const { resourceTemplates } = await client.listResourceTemplates();
const { prompts } = await client.listPrompts();
console.log(JSON.stringify({ tools, content, isError, contents, resources, resourceTemplates, prompts }));
await client.close();
