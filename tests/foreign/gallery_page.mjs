// Uses the gallery's page in Chromium as a person does, with keys and clicks. Prints what it saw.
import { inChromium, violations } from "./chromium.mjs";

const { url, token, ...options } = JSON.parse(process.argv[2]);

await inChromium(options, async ({ page, shot }) => {
  const tile = (place) => page.locator(`.tile[aria-posinset="${place}"]`);
  const caption = (place) => tile(place).locator(".caption").textContent();
  const count = (text) => page.locator("#count", { hasText: text }).waitFor();
  const focused = () => page.evaluate(() => document.activeElement.closest(".tile")?.ariaPosInSet);
  const asked = () => Object.fromEntries(new URL(page.url()).searchParams);
  const recipe = () =>
    page.locator("#viewer tr").evaluateAll((rows) => Object.fromEntries(rows.map((row) => [...row.cells].map((cell) => cell.innerText))));
  const large = (title) => page.locator("#viewer-title", { hasText: title }).waitFor().then(() => page.locator("#viewer tr").first().waitFor());
  const closed = async () => {
    await page.locator("#viewer").waitFor({ state: "hidden" });
    await page.waitForFunction(() => !/picture|compare/.test(location.search));
  };
  const told = (text) => page.locator("#toast", { hasText: text }).waitFor();
  const wide = () => page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  const found = { violations: [] };
  const look = async (name) => {
    await shot(name);
    found.violations.push(...(await violations(page)).map((each) => [name, ...each]));
  };

  await page.goto(url);
  if (token) {
    await page.locator("#token").waitFor();
    await look("sign-in");
    await page.locator("#token").fill("another token");
    await page.keyboard.press("Enter");
    found.refused = await page.locator("#sign-in [role=alert]", { hasText: "token" }).textContent();
    await page.locator("#token").fill(token);
    await page.keyboard.press("Enter");
  }
  await tile(1).locator("img").waitFor();
  await page.waitForFunction(() => [...document.querySelectorAll(".tile img")].every((image) => image.complete));
  found.spent = await page.locator("#spent").textContent();
  found.count = await page.locator("#count").textContent();
  found.captions = await page.locator(".caption").allTextContents();
  found.previews = await page.locator(".tile img").evaluateAll((all) => all.map((image) => image.naturalWidth));
  await look("grid");

  // Keys: move in the grid, enlarge a picture, go to its neighbours, and go back.
  await tile(1).locator(".open").focus();
  await page.keyboard.press("End");
  found.end = await focused();
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowRight");
  found.moved = await focused();
  await page.keyboard.press("Enter");
  await large("Picture 2 of");
  await page.waitForFunction(() => document.querySelector("#viewer img").naturalWidth > 384);
  found.recipe = await recipe();
  await look("large");
  await page.reload();
  await large("Picture 2 of");
  await page.keyboard.press("ArrowRight");
  await large("Picture 3 of");
  await page.keyboard.press("Escape");
  await closed();
  found.after = [await focused(), asked()];
  await page.keyboard.press("Enter");
  await large("Picture 3 of");
  await page.goBack();
  await closed();

  // The text and the command of the picture whose prompt is hardest to quote.
  await page.locator("#words").fill("quoted");
  await count(/^1 of/);
  await tile(1).locator(".open").click();
  await large("Picture 1 of 1");
  found.sentence = await page.evaluate("sentenceFor(page.viewer.pictures[0].job)");
  found.command = await page.evaluate("commandFor(page.viewer.pictures[0].job, page.sandbox)");
  await page.getByRole("button", { name: "Copy command" }).click();
  await told("Command copied");
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "Download" }).click()]);
  found.download = [download.suggestedFilename(), await download.failure()];
  await page.keyboard.press("Escape");
  await closed();

  // Search: it is in the URL, is kept after a reload, and can be removed.
  found.searched = [asked(), await page.locator(".caption").allTextContents()];
  await page.reload();
  await count(/^1 of/);
  await page.locator("#words").fill("nothing of this");
  await page.locator("#empty").waitFor();
  await look("nothing");
  await page.getByRole("button", { name: "Show all pictures" }).click();
  await tile(3).waitFor();

  // Compare two pictures side by side.
  await tile(1).locator(".open").focus();
  await page.keyboard.press("c");
  await page.locator("#marked").waitFor();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("c");
  await large("Two pictures compared");
  found.compared = await page.locator("#viewer tr.differs").evaluateAll((rows) => rows.map((row) => row.cells[0].firstChild.textContent));
  await look("compare");
  await page.keyboard.press("Escape");
  await closed();

  // A star, which is kept, and the filter for stars.
  await tile(2).locator(".open").focus();
  const starred = await caption(2);
  await page.keyboard.press("s");
  await told("Starred");
  await page.reload();
  await page.locator("#starred").click();
  await count(/^1 of/);
  await page.waitForURL(/starred=1/);
  found.starred = [starred, ...(await page.locator(".caption").allTextContents()), asked()];
  await page.locator("#starred").click();
  await tile(3).waitFor();

  // A deletion, first declined, then confirmed.
  const [gone, following] = [await caption(2), await caption(3)];
  await tile(2).locator(".open").click();
  await large("Picture 2 of");
  await page.keyboard.press("Delete");
  await page.locator("#deletion").waitFor();
  await look("delete");
  await page.keyboard.press("Escape");
  await page.locator("#deletion").waitFor({ state: "hidden" });
  await page.getByRole("button", { name: "Delete…" }).click();
  await page.locator("#deletion").getByRole("button", { name: "Delete" }).click();
  await told("Deleted");
  found.deleted = { gone, following, shown: await page.locator("#viewer-title").textContent() };
  await page.keyboard.press("Escape");
  await closed();
  Object.assign(found.deleted, { focused: await focused(), second: await caption(2), count: await page.locator("#count").textContent() });

  // A small screen, and dark mode.
  await page.emulateMedia({ colorScheme: "dark" });
  await page.setViewportSize({ width: 320, height: 640 });
  await tile(2).waitFor();
  await look("phone-dark");
  found.wide = [await wide()];
  found.small = await page.locator("button:visible, input:visible").evaluateAll((all) =>
    all.filter((each) => Math.min(each.offsetWidth, each.offsetHeight) < 44).map((each) => each.outerHTML));
  await tile(1).locator(".open").click();
  await large("Picture 1 of");
  await look("phone-large-dark");
  found.wide.push(await page.locator("#viewer").evaluate((viewer) => viewer.scrollWidth > viewer.clientWidth));
  await page.keyboard.press("Escape");
  await closed();
  if (token) {
    await page.getByRole("button", { name: /^Sign out/ }).click();
    await page.locator("#token").waitFor();
  }
  return found;
});
