// Starts the real Chromium with playwright-core, for the programs in this folder that open pages.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Run a program in a page, and print its findings as one object, together with the page's errors. */
export async function inChromium({ chromium: executablePath, screenshots, viewport, ...options }, program) {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const context = await browser.newContext({ viewport: viewport ?? { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (said) => /Content Security Policy|Trusted/.test(said.text()) && complaints.push(said.text()));
  const shot = (name) => page.screenshot({ path: `${screenshots}/${name}.png` });
  try {
    console.log(JSON.stringify({ ...(await program({ page, shot })), complaints }));
  } finally {
    await browser.close();
  }
}

/** The findings of axe-core in a page or a frame: the rules, and the elements that break them. */
export async function violations(page) {
  await page.evaluate(axe);
  const { violations: found } = await page.evaluate(() => globalThis.axe.run());
  return found.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html.slice(0, 200))]);
}
