// Opens the gallery's page in Chromium, and prints its measurements as JSON. benchmarks/page.py runs it.
//
//   node page.mjs ADDRESS CHROMIUM PICTURES SEARCHES...
//
// Every time ends when the browser has painted, as for a person who waits.

import {chromium} from "playwright-core";

const [address, executablePath, pictures, ...searches] = process.argv.slice(2);
const VIEW = {width: 1280, height: 800};

const browser = await chromium.launch({executablePath, args: ["--no-sandbox"]});
let page;

/** The milliseconds from the navigation of a new browser until something, the tiles and the previews were painted. */
async function load() {
  page = await (await browser.newContext({viewport: VIEW})).newPage();
  await page.goto(address, {waitUntil: "commit"});
  return page.evaluate(() => new Promise(resolve => {
    const painted = {};
    const look = () => {
      const images = [...document.querySelectorAll("#grid img")];
      const seen = images.filter(each => each.getBoundingClientRect().top < innerHeight);
      if (images.length) painted.tiles ??= performance.now();
      if (!seen.length || !seen.every(each => each.complete && each.naturalWidth)) return requestAnimationFrame(look);
      const first = performance.getEntriesByName("first-contentful-paint")[0]?.startTime;
      return resolve({first, ...painted, previews: performance.now()});
    };
    look();
  }));
}

/** The milliseconds from the last key of a search until its result was painted, and the number of pictures found. */
function search(words) {
  return page.evaluate(words => new Promise(resolve => {
    const field = document.getElementById("words"), count = document.getElementById("count");
    const before = count.textContent, started = performance.now();
    const done = () => requestAnimationFrame(() => setTimeout(() => resolve({
      milliseconds: performance.now() - started, count: count.textContent,
    })));
    const look = () => count.textContent === before ? requestAnimationFrame(look) : done();
    field.value = words;
    field.dispatchEvent(new Event("input", {bubbles: true}));
    look();
  }), words);
}

/** The size of the page when it is idle: megabytes of the script's heap, and nodes, also those outside the document. */
async function memory() {
  const cdp = await page.context().newCDPSession(page);
  for (let collection = 0; collection < 3; collection++) {
    await page.waitForTimeout(500);
    await cdp.send("HeapProfiler.collectGarbage");
  }
  const {usedSize} = await cdp.send("Runtime.getHeapUsage");
  const {nodes} = await cdp.send("Memory.getDOMCounters");
  return {heap: usedSize / 1e6, nodes};
}

/** Scroll to this fraction of the list, screen by screen. */
async function scrollTo(share) {
  await page.evaluate(async share => {
    const frame = () => new Promise(requestAnimationFrame);
    const end = (document.documentElement.scrollHeight - innerHeight) * share;
    while (scrollY < end - 1) {
      scrollTo(0, Math.min(scrollY + innerHeight, end));
      await frame();
      await frame();
    }
    while ([...document.querySelectorAll("#grid .tile")].some(each => each.ariaBusy === "true")) await frame();
  }, share);
}

const loads = [];
for (let run = 0; run < 5; run++) loads.push(await load());
const found = [];
for (const words of searches) {
  const [there, back] = [[], []];
  for (let run = 0; run < 5; run++) {
    there.push(await search(words));
    back.push((await search("")).milliseconds);
  }
  found.push({words, milliseconds: there.map(each => each.milliseconds), count: there[0].count, back});
}
const held = [];
for (const share of [0, 0.25, 0.5, 0.75, 1]) {
  await scrollTo(share);
  held.push({share, ...await memory()});
}
const last = await page.evaluate(() => Math.max(...[...document.querySelectorAll("#grid .tile")].map(each => +each.ariaPosInSet)));
if (last !== +pictures) throw new Error(`the last picture is ${last}, and not ${pictures}`);
console.log(JSON.stringify({loads, found, held}));
await browser.close();
