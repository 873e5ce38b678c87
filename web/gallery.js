// The pictures on the page: runs, newest first, whose cards fill as pictures come. The session's history.

import { caption, describe } from './plan.js';
import { saveGrid, saveZip } from './save.js';

const LIMIT = 400; // cards kept; the oldest runs go first, so that a long session stays light

const $ = (id) => document.getElementById(id);

export function pictureBlob(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return { bytes, url: URL.createObjectURL(new Blob([bytes], { type: 'image/png' })) };
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

export class Gallery {
  constructor(onOpen) {
    this.onOpen = onOpen; // called with a card when it is clicked
    this.runs = []; // newest first: {element, mode, cards: [{element, button, picture, bytes, url}]}
    $('clear').onclick = () => { [...this.runs].forEach((r) => this.remove(r)); };
    $('save-zip').onclick = () => saveZip(this.done());
    $('save-grid').onclick = () => saveGrid(this.done());
    $('gallery').addEventListener('keydown', (e) => this.onKey(e));
  }

  // A run of empty cards for pictures on their way.
  begin(pictures, mode) {
    const run = { mode, cards: [], element: make('section', `run ${mode}`), title: make('h2', ''), note: make('p', 'note') };
    const head = make('div', 'run-head');
    run.list = make('ol', 'pictures');
    head.append(run.title, run.note);
    run.element.append(head, run.list);
    pictures.forEach((p) => this.addCard(run, p));
    this.retitle(run, pictures);
    $('gallery').prepend(run.element);
    this.runs.unshift(run);
    for (let n = 0, i = 0; i < this.runs.length; i++) {
      n += this.runs[i].cards.length;
      if (n > LIMIT && i > 0) this.remove(this.runs[i--]);
    }
    this.changed();
    return run;
  }

  addCard(run, picture, after) {
    const card = { run, picture: null, element: make('li', 'card waiting'), button: make('button', 'frame'),
      label: make('span', 'caption', caption(picture, run.mode)) };
    card.button.type = 'button';
    card.button.disabled = true;
    card.button.tabIndex = -1;
    card.button.append(card.label);
    card.button.onclick = () => { this.reach(card); this.onOpen(card); };
    card.element.append(card.button);
    if (after) {
      after.element.after(card.element);
      run.cards.splice(run.cards.indexOf(after) + 1, 0, card);
    } else {
      run.list.append(card.element);
      run.cards.push(card);
    }
    return card;
  }

  retitle(run, pictures) {
    const { title, note } = describe(pictures, run.mode);
    run.title.textContent = title;
    run.note.textContent = note;
  }

  // blob: {bytes, url} of the PNG; the gallery owns the URL from here on.
  fill(card, picture, { bytes, url }) {
    if (!this.has(card.run)) return;
    const old = card.url;
    Object.assign(card, { picture, bytes, url });
    let image = card.button.querySelector('img');
    if (!image) {
      image = document.createElement('img');
      card.button.prepend(image);
      card.element.className = 'card';
      card.button.disabled = false;
      if (!card.run.list.querySelector('[tabindex="0"]')) card.button.tabIndex = 0;
      this.changed();
    }
    image.src = url;
    if (old) setTimeout(() => URL.revokeObjectURL(old), 1000);
    image.alt = `${picture.name}, seed ${picture.seed}, guidance ${picture.omega}`;
    card.label.textContent = caption(picture, card.run.mode);
  }

  // A picture found in the viewer, beside the one it came from.
  keep(card, picture, bytes) {
    const kept = this.addCard(card.run, picture, card);
    this.fill(kept, picture, { bytes, url: URL.createObjectURL(new Blob([bytes], { type: 'image/png' })) });
    return kept;
  }

  has(run) {
    return this.runs.includes(run);
  }

  removeCard(card) {
    card.element.remove();
    if (card.url) URL.revokeObjectURL(card.url);
    card.run.cards = card.run.cards.filter((c) => c !== card);
  }

  remove(run) {
    run.cards.forEach((c) => c.url && URL.revokeObjectURL(c.url));
    run.element.remove();
    this.runs = this.runs.filter((r) => r !== run);
    this.changed();
  }

  dropWaiting(run) {
    run.cards.filter((c) => !c.picture).forEach((c) => this.removeCard(c));
    if (!run.cards.length) this.remove(run);
    this.changed();
  }

  done() {
    return this.runs.flatMap((r) => r.cards.filter((c) => c.picture));
  }

  changed() {
    const any = this.done().length > 0;
    for (const id of ['save-zip', 'save-grid', 'clear']) $(id).disabled = !any;
    $('empty').hidden = this.runs.length > 0;
  }

  // Each run is one stop of the Tab key; arrow keys move inside and from run to run.
  reach(card) {
    card.run.cards.forEach((c) => { c.button.tabIndex = c === card ? 0 : -1; });
    card.button.focus();
  }

  onKey(e) {
    const cards = this.done();
    const at = cards.findIndex((c) => c.button === document.activeElement);
    if (at < 0) return;
    const here = cards[at].button.getBoundingClientRect();
    const beside = (direction) => {
      const rows = cards.filter((c) => Math.sign(Math.round(c.button.getBoundingClientRect().top - here.top)) === direction);
      const far = (c) => {
        const r = c.button.getBoundingClientRect();
        return Math.abs(r.top - here.top) * 1000 + Math.abs(r.left - here.left);
      };
      return rows.sort((a, b) => far(a) - far(b))[0];
    };
    const to = { ArrowRight: () => cards[at + 1], ArrowLeft: () => cards[at - 1], ArrowDown: () => beside(1), ArrowUp: () => beside(-1),
      Home: () => cards[at].run.cards[0], End: () => cards[at].run.cards.at(-1) }[e.key];
    if (!to) return;
    e.preventDefault();
    const card = to();
    if (card) this.reach(card);
  }
}
