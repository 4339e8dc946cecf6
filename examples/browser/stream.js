// A step file of `export_tflite(..., streaming="states")`, driven by LiteRT.js: one frame
// in, one frame out, and the states handed back by the caller.

import {loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';

const PREFIX = 'state_';

export class Stream {
  static async load(url, wasm) {
    // A wasm that is not served is told by an event without words.
    await loadLiteRt(wasm).catch((cause) => {
      throw new Error(`LiteRT.js could not load its wasm from ${wasm}. Run npm ci in ` +
        'examples/browser.', {cause});
    });
    const answer = await fetch(url);
    if (!answer.ok) {
      throw new Error(`${url}: ${answer.status} ${answer.statusText}. Run train.py first.`);
    }
    const bytes = new Uint8Array(await answer.arrayBuffer());
    const model = await loadAndCompile(bytes, {accelerator: 'wasm'}).catch((cause) => {
      throw new Error(`${url}: LiteRT.js can't load it (${cause.message}). Run train.py ` +
        'again.', {cause});
    });
    return new Stream(model);
  }

  constructor(model) {
    this.model = model;
    const details = model.getInputDetails();
    // Every state is an input and an output of the same name.
    this.states = details.filter((one) => one.name.startsWith(PREFIX));
    this.input = details.find((one) => !one.name.startsWith(PREFIX));
    if (!this.states.length) {
      throw new Error(`The model has no inputs ${PREFIX}…: export it with ` +
        'streaming="states".');
    }
    this.output = model.getOutputDetails().find((one) => !one.name.startsWith(PREFIX));
  }

  // The states that a stream begins with.
  begin() {
    return Object.fromEntries(this.states.map((one) => [one.name, new Float32Array(size(one.shape))]));
  }

  // One step: `{output, states}`; what was handed in stays as it was.
  async step(frame, states) {
    const inputs = {[this.input.name]: new Tensor(frame, [...this.input.shape])};
    for (const one of this.states) {
      inputs[one.name] = new Tensor(states[one.name], [...one.shape]);
    }
    const outputs = await this.model.run(inputs);
    const read = (name) => outputs[name].toTypedArray().slice();
    const result = {
      output: read(this.output.name),
      states: Object.fromEntries(this.states.map((one) => [one.name, read(one.name)])),
    };
    // The runtime's memory is not collected by the browser.
    for (const tensor of [...Object.values(inputs), ...Object.values(outputs)]) {
      tensor.delete();
    }
    return result;
  }
}

function size(shape) {
  return [...shape].reduce((product, one) => product * one, 1);
}
