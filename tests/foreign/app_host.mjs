// A host of MCP Apps in Chromium. It draws with the given server and shows the results in the app.
import { Client } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { build } from "esbuild";
import { inChromium, violations } from "./chromium.mjs";

const { server, policy, ...options } = JSON.parse(process.argv[2]);
const client = new Client({ name: "host", version: "1" });
await client.connect(new StdioClientTransport(server));
const { tools } = await client.listTools();
const uri = tools[0]._meta.ui.resourceUri;
const { contents: [{ text: html, mimeType }] } = await client.readResource({ uri });
const bundle = await build({ entryPoints: ["app_host_page.mjs"], bundle: true, write: false, format: "iife" });
const calls = [];

async function callTool({ name, arguments: given }) {
  calls.push([name, given]);
  return client.callTool({ name, arguments: given });
}

/** What a person sees in the app. */
const seen = async (app) => ({
  told: await app.locator("#told").textContent(),
  buttons: await app.locator("#app button:visible").allTextContents(),
  rows: Object.fromEntries(
    (await app.locator("#app tr").evaluateAll((rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)))),
  ),
  canvases: await app.locator("canvas").evaluateAll((all) =>
    all.map((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const pixels = new Uint32Array(data.buffer);
      const box = canvas.getBoundingClientRect();
      return {
        label: canvas.ariaLabel,
        colours: new Set(pixels.filter((_, index) => index % 97 === 0)).size,
        shown: [Math.round(box.width), Math.round(box.height)],
      };
    }),
  ),
});

await inChromium({ ...options, viewport: { width: 760, height: 900 } }, async ({ page, shot }) => {
  await page.exposeFunction("callTool", callTool);
  await page.goto("about:blank");
  await page.evaluate(bundle.outputFiles[0].text);
  const open = async (capabilities, more = {}) => {
    await page.evaluate((asked) => globalThis.showApp(asked), { html, policy, capabilities, theme: "light", ...more });
    return page.frames()[1];
  };
  const show = async (app, name, given, until) => {
    await page.evaluate((asked) => globalThis.showResult(asked), { name, arguments: given });
    await app.locator(until).first().waitFor();
  };
  const found = { mimeType };

  let app = await open({ serverTools: {} });
  found.waiting = await seen(app);
  // A result that comes from another frame, not from the host.
  await page.evaluate(async () => {
    const result = { content: [{ type: "text", text: "forged" }] };
    const message = JSON.stringify({ jsonrpc: "2.0", method: "ui/notifications/tool-result", params: result });
    const stranger = document.createElement("iframe");
    stranger.sandbox = "allow-scripts";
    stranger.srcdoc = `<script>parent.frames[0].postMessage(${message}, "*"); parent.postMessage("sent", "*")</script>`;
    const sent = new Promise((resolve) => addEventListener("message", ({ data }) => data === "sent" && resolve()));
    document.body.append(stranger);
    await sent;
  });
  found.forged = await seen(app);
  await show(app, "generate_image_vega", { prompt: options.prompt, seed: 7, num_inference_steps: 30 }, "canvas");
  found.one = await seen(app);
  await page.waitForFunction(() => globalThis.told?.height > 400);
  await shot("app");
  found.violations = await violations(app);
  await app.getByRole("button", { name: /^Another seed/ }).click();
  await app.locator("td", { hasText: /^7$/ }).waitFor({ state: "detached" });
  found.another = await seen(app);
  found.violations.push(...(await violations(app)));

  await show(app, "generate_image_vega", { prompt: "four foxes", samples: 4 }, ".samples canvas");
  found.four = await seen(app);
  await shot("app-four");
  await app.locator(".samples button").nth(2).click();
  found.third = await seen(app);
  await app.getByRole("button", { name: "All 4 pictures" }).click();
  found.violations.push(...(await violations(app)));

  await show(app, "check_job", {}, ".jobs li");
  found.jobs = await seen(app);
  await shot("app-jobs");
  found.violations.push(...(await violations(app)));
  await app.getByRole("button", { name: /^Show \(free\)/ }).last().click();
  await app.locator("tr").first().waitFor();
  found.first = await seen(app);
  await show(app, "generate_image_vega", { prompt: "a fox", seed: -7 }, "#told:has-text('seed')");
  found.refused = await seen(app);
  await page.evaluate(() => globalThis.bridge.sendToolCancelled({}));
  await app.locator("#told", { hasText: "Cancelled" }).waitFor();
  // A host that does not keep pictures has text instead of them.
  await page.evaluate(() => {
    const image = { type: "image", data: "[left out]", mimeType: "image/jpeg" };
    return globalThis.bridge.sendToolResult({ content: [image, { type: "text", text: "Drawn earlier" }] });
  });
  await app.locator(".broken").waitFor();
  found.leftOut = (await seen(app)).told;

  // A frame with a fixed height, in a host with a dark theme where apps may make no calls.
  app = await open({}, { height: 420, theme: "dark" });
  await show(app, "generate_image_vegart", { prompt: "a fox" }, "canvas");
  found.fixed = await seen(app);
  found.ground = await app.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await shot("app-dark");
  found.violations.push(...(await violations(app)));
  return { ...found, calls };
});
await client.close();
