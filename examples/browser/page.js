import {Completer} from './complete.js';
import {Stream} from './stream.js';

const field = document.querySelector('#text');
const ghost = document.querySelector('#ghost');
const list = document.querySelector('#words');
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
  field.disabled = false;
  field.focus();
  await show();
}

// One completion at a time; of what is typed meanwhile only the last counts.
async function show() {
  wanted = field.value;
  if (busy) return;
  busy = true;
  while (wanted !== null) {
    const text = wanted;
    wanted = null;
    const begin = performance.now();
    found = await completer.complete(text);
    const taken = performance.now() - begin;
    if (wanted === null) draw(text, taken);
  }
  busy = false;
}

function draw(text, taken) {
  ghost.replaceChildren(text, Object.assign(document.createElement('b'), {
    textContent: found[0]?.word ?? '',
  }));
  list.replaceChildren(...found.map(({word, chance}, number) => {
    const item = document.createElement('li');
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = `${lastPart(text)}${word}`;
    button.addEventListener('click', () => accept(number));
    const share = document.createElement('span');
    share.textContent = `${Math.round(100 * chance)} %`;
    item.append(button, share);
    return item;
  }));
  list.dataset.text = text;
  list.dataset.words = JSON.stringify(found);
  status.textContent = `${taken.toFixed(1)} ms, in this browser; Tab takes the first.`;
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
  status.textContent = error.message;
}

field.addEventListener('input', () => show().catch(fail));
field.addEventListener('keydown', (event) => {
  if (event.key === 'Tab' && !event.shiftKey && found.length) {
    event.preventDefault();
    accept(0);
  }
});
load().catch(fail);
