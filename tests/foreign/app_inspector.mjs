// Opens the Apps tab of the MCP Inspector in Chromium. The app of a tool draws; prints what the app shows.
import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { inChromium } from "./chromium.mjs";

const { server, prompt, ...options } = JSON.parse(process.argv[2]);

const freePort = () =>
  new Promise((resolve) => {
    const taken = createServer().listen(0, "127.0.0.1", () => {
      const { port } = taken.address();
      taken.close(() => resolve(port));
    });
  });

const variables = Object.entries(server.env).flatMap(([name, value]) => ["-e", `${name}=${value}`]);
const inspector = spawn(
  "node_modules/.bin/mcp-inspector",
  ["--web", ...variables, "--", server.command, ...server.args],
  { env: { ...process.env, CLIENT_PORT: await freePort(), MCP_AUTO_OPEN_ENABLED: "false", MCP_INSPECTOR_SECRET_STORE: "memory" } },
);
const url = await new Promise((resolve, reject) => {
  let said = "";
  const hear = (data) => {
    said += data;
    const found = said.match(/http:\/\/\S+TOKEN=\w+/);
    if (found) resolve(found[0]);
  };
  inspector.stdout.on("data", hear);
  inspector.stderr.on("data", hear);
  inspector.on("exit", () => reject(new Error(said)));
});

try {
  await inChromium({ ...options, viewport: { width: 1500, height: 1000 } }, async ({ page, shot }) => {
    await page.goto(url);
    await page.getByRole("switch").click({ force: true });
    await page.getByText("Apps", { exact: true }).click();
    await page.getByRole("button", { name: "Generate image with Segmind-VegaRT" }).click();
    await page.getByRole("textbox", { name: /^prompt/ }).fill(prompt);
    await page.getByRole("button", { name: "Open App" }).click();
    // The app is in a frame inside the frame of the Inspector's sandbox.
    const app = page.frameLocator("iframe").frameLocator("iframe");
    await app.locator("canvas").waitFor({ timeout: 60_000 });
    const seed = await app.locator("tr:has-text('Seed') td").textContent();
    await shot("inspector");
    const colours = () =>
      app.locator("canvas").evaluate((canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer).filter((_, index) => index % 97 === 0)).size;
      });
    const found = { seed, colours: await colours(), prompt: await app.locator("tr:has-text('Prompt') td").textContent() };
    await app.getByRole("button", { name: /^Another seed/ }).click();
    await app.locator("tr:has-text('Seed') td", { hasText: new RegExp(`^(?!${seed}$)`) }).waitFor();
    return { ...found, another: await app.locator("tr:has-text('Seed') td").textContent() };
  });
} finally {
  inspector.kill();
}
