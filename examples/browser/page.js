import {Completer} from './complete.js';
import {Stream} from './stream.js';

const field = document.querySelector('#text');
const ghost = document.querySelector('#ghost');
const list = document.querySelector('#words');
const taken = document.querySelector('#taken');
const status = document.querySelector('#status');
// Another folder with a model: index.html?model=other/
const folder = new URLSearchParams(location.search).get('model') ?? 'model/';

let completer;
let found = [];
let wanted = null;
let busy = false;

async function load() {
  const answer = await fetch(`${folder}vocabulary.json`);
  if (!answer.ok) {
    throw new Error(`${folder}vocabulary.json: ${answer.status}. Run train.py first.`);
  }
  const vocabulary = await answer.json();
  const wasm = new URL('node_modules/@litertjs/core/wasm/', location.href).href;
  completer = new Completer(await Stream.load(`${folder}step.tflite`, wasm), vocabulary);
  status.textContent = '';
  field.disabled = false;
  field.focus();
  await show();
}

// One completion at a time; of what is typed meanwhile only the last counts.
async function show() {
  wanted = field.value;
  if (busy) return;
  busy = true;
  try {
    while (wanted !== null) {
      const text = wanted;
      wanted = null;
      const begin = performance.now();
      const before = completer.fed;
      found = await completer.complete(text);
      const fed = completer.fed - before;
      if (wanted === null) draw(text, performance.now() - begin, fed);
    }
  } finally {
    busy = false;
  }
}

// What is typed, unseen, with a completion behind it. A line may break between the two, as
// the field breaks what is typed.
function shadow(text, word) {
  const rest = Object.assign(document.createElement('b'), {textContent: `${word}\u200b`});
  ghost.replaceChildren(text, document.createElement('wbr'), rest);
}

function draw(text, milliseconds, fed) {
  shadow(text, found[0]?.word ?? '');
  list.replaceChildren(...found.map(({word, chance}, number) => {
    const item = document.createElement('li');
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = `${lastPart(text)}${word}`;
    button.addEventListener('click', () => accept(number));
    const share = document.createElement('span');
    share.textContent = chance < 0.01 ? '< 1 %' : `${Math.round(100 * chance)} %`;
    item.append(button, share);
    return item;
  }));
  list.dataset.text = text;
  list.dataset.words = JSON.stringify(found);
  taken.textContent =
    `${(milliseconds / fed).toFixed(2)} ms a character, ${milliseconds.toFixed(1)} ms for ` +
    `the ${fed} tried, in this browser. Tab takes the first word, Escape puts them away.`;
}

function lastPart(text) {
  return text.match(/[\p{L}\p{N}_]*$/u)[0];
}

function accept(number) {
  if (!found[number] || list.dataset.text !== field.value) return;
  field.value += found[number].word;
  field.focus();
  show().catch(fail);
}

function fail(error) {
  status.className = 'error';
  status.textContent = error.message || String(error);
}

field.addEventListener('input', () => {
  shadow(field.value, '');
  show().catch(fail);
});
field.addEventListener('keydown', (event) => {
  if (event.key === 'Tab' && !event.shiftKey && found.length) {
    event.preventDefault();
    accept(0);
  } else if (event.key === 'Escape') {
    // So that Tab can leave the field.
    found = [];
    shadow(field.value, '');
    list.replaceChildren();
  }
});
load().catch(fail);
