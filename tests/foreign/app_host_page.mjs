// The page of a host of MCP Apps, built on the AppBridge of ext-apps: a frame for the app, and the messages to it.
import { AppBridge, PostMessageTransport } from "@modelcontextprotocol/ext-apps/app-bridge";

globalThis.showApp = async ({ html, policy, capabilities, theme, height }) => {
  globalThis.bridge?.teardownResource({}).catch(() => {});
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts allow-forms";
  frame.style.cssText = `width: 100%; border: 0; height: ${height ?? 200}px`;
  const meta = policy ? `<meta http-equiv="Content-Security-Policy" content="${policy}">` : "";
  frame.srcdoc = html.replace("<head>", `<head>${meta}`);
  const bridge = new AppBridge(null, { name: "host", version: "1" }, capabilities, { hostContext: { theme } });
  bridge.oncalltool = (params) => globalThis.callTool(params);
  bridge.onsizechange = (size) => {
    globalThis.told = size;
    if (!height && size.height) frame.style.height = `${size.height}px`;
  };
  const ready = new Promise((resolve) => (bridge.oninitialized = resolve));
  document.body.replaceChildren(frame);
  await bridge.connect(new PostMessageTransport(frame.contentWindow, frame.contentWindow));
  await ready;
  globalThis.bridge = bridge;
};

globalThis.showResult = async (params) => {
  await bridge.sendToolInput({ arguments: params.arguments });
  await bridge.sendToolResult(await globalThis.callTool(params));
};
