// Types texts into the page and prints what it shows after each, as JSON.
//
//     node browser_page.mjs NODE_MODULES CHROMIUM URL TEXTS [SCREENSHOT]

import {createRequire} from 'node:module';

const [modules, chromium, url, texts, screenshot] = process.argv.slice(2);
const playwright = createRequire(`${modules}/`)('playwright-core');
const browser = await playwright.chromium.launch({
  executablePath: chromium,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
  ],
});
try {
  const page = await browser.newPage({viewport: {width: 390, height: 700}});
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  await page.goto(url);
  const status = page.locator('#status');
  const ready = page.locator('#text:not([disabled])');
  const failed = page.locator('#status.error');
  await ready.or(failed).first().waitFor({timeout: 60000});
  if (await failed.count()) {
    console.log(JSON.stringify({error: await status.textContent()}));
  } else {
    const shown = [];
    for (const text of JSON.parse(texts)) {
      // Only what differs is taken away, so that the states before it are used again.
      const field = page.locator('#text');
      const held = await field.inputValue();
      let same = 0;
      while (same < text.length && held[same] === text[same]) same += 1;
      await field.fill(text.slice(0, same));
      await field.pressSequentially(text.slice(same));
      const list = page.locator('#words');
      await page.waitForFunction(
        (wanted) => document.querySelector('#words').dataset.text === wanted, text);
      const words = JSON.parse(await list.getAttribute('data-words'));
      await page.keyboard.press('Tab');
      const accepted = await field.inputValue();
      shown.push({text, words, accepted});
    }
    if (screenshot) await page.screenshot({path: screenshot});
    console.log(JSON.stringify({shown, errors}));
  }
} finally {
  await browser.close();
}
