// Completes the last word of a text, character by character.

const START = '\n';
const LETTER = /[\p{L}\p{N}_]/u;
const LONGEST = 20;

export class Completer {
  constructor(stream, vocabulary) {
    this.stream = stream;
    this.vocabulary = vocabulary;
    this.index = new Map(vocabulary.map((character, id) => [character, id]));
    // What is known after each character of the text: after a correction, only what is
    // new is fed again.
    this.text = '';
    this.known = [];
    // How many characters were fed, to tell what one costs.
    this.fed = 0;
  }

  async feed(character, states) {
    // What the vocabulary lacks has number 0.
    const id = this.index.get(character) ?? 0;
    this.fed += 1;
    const {output, states: after} = await this.stream.step(Int32Array.of(id), states);
    return {chances: softmax(output), states: after};
  }

  async after(text) {
    const characters = [START, ...text];
    const before = [START, ...this.text];
    let same = 0;
    while (same < this.known.length && characters[same] === before[same]) same += 1;
    this.known.length = same;
    this.text = text;
    for (const character of characters.slice(same)) {
      const states = this.known.at(-1)?.states ?? this.stream.begin();
      this.known.push(await this.feed(character, states));
    }
    return this.known.at(-1);
  }

  // The likeliest ends of the last word: for each of the likeliest next letters the word
  // that follows if one always takes the likeliest, and the chance of all its letters.
  async complete(text, count = 3) {
    const now = await this.after(text);
    const firsts = order(now.chances).filter((id) => LETTER.test(this.vocabulary[id]));
    const found = [];
    for (const id of firsts.slice(0, count)) {
      let word = this.vocabulary[id];
      let chance = now.chances[id];
      let next = await this.feed(word, now.states);
      while (word.length < LONGEST) {
        const likeliest = order(next.chances)[0];
        const character = this.vocabulary[likeliest];
        if (!LETTER.test(character)) break;
        word += character;
        chance *= next.chances[likeliest];
        next = await this.feed(character, next.states);
      }
      found.push({word, chance});
    }
    return found;
  }
}

function softmax(scores) {
  const largest = Math.max(...scores);
  const powers = Array.from(scores, (score) => Math.exp(score - largest));
  const sum = powers.reduce((total, one) => total + one, 0);
  return powers.map((one) => one / sum);
}

function order(chances) {
  return chances.map((_, id) => id).sort((a, b) => chances[b] - chances[a]);
}
