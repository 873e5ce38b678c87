// The pictures on the page: cards that fill as pictures come, the full-size view, and saving.

import { curlCommand, pictureUrl } from './api.js';
import { zip } from './zip.js';

const LIMIT = 400; // cards kept; the oldest go first, so that a long session stays light

const $ = (id) => document.getElementById(id);

function decode(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

export function save(blob, name) {
  const a = document.createElement('a');
  a.href = URL.createObjectURL(blob);
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10000);
}

async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = document.createElement('textarea'); // plain http: the old way
  area.value = text;
  $('viewer').append(area);
  area.select();
  const ok = document.execCommand('copy');
  area.remove();
  if (!ok) throw new Error('copying is not allowed here');
}

export class Gallery {
  constructor(actions) {
    this.actions = actions; // {more(picture), sweep(picture)}
    this.cards = []; // newest first: {element, picture, bytes, url}
    this.open = null;
    $('previous').onclick = () => this.step(-1);
    $('next').onclick = () => this.step(1);
    $('close').onclick = () => $('viewer').close();
    $('copy-link').onclick = () => this.copy(pictureUrl(this.open.picture), 'Link copied');
    $('copy-curl').onclick = () => this.copy(curlCommand(this.open.picture), 'Command copied');
    $('more').onclick = () => this.leave(actions.more);
    $('sweep').onclick = () => this.leave(actions.sweep);
    $('clear').onclick = () => this.clear();
    $('save-zip').onclick = () => this.saveZip();
    $('save-grid').onclick = () => this.saveGrid();
    $('viewer').addEventListener('keydown', (e) => {
      if (e.key === 'ArrowLeft') this.step(-1);
      if (e.key === 'ArrowRight') this.step(1);
    });
    $('viewer').addEventListener('click', (e) => { if (e.target === $('viewer')) $('viewer').close(); });
  }

  // Empty cards for pictures on their way, in the order given, before all earlier ones.
  expect(captions) {
    const cards = captions.map((caption) => {
      const element = document.createElement('button');
      element.type = 'button';
      element.className = 'card waiting';
      element.disabled = true;
      const label = document.createElement('span');
      label.textContent = caption;
      element.append(label);
      const card = { element, picture: null };
      element.onclick = () => this.show(card);
      return card;
    });
    $('gallery').prepend(...cards.map((c) => c.element));
    this.cards.unshift(...cards);
    while (this.cards.length > LIMIT) this.remove(this.cards[this.cards.length - 1]);
    this.changed();
    return cards;
  }

  fill(card, picture, base64, caption) {
    if (!this.cards.includes(card)) return;
    card.picture = picture;
    card.bytes = decode(base64);
    card.url = URL.createObjectURL(new Blob([card.bytes], { type: 'image/png' }));
    const image = document.createElement('img');
    image.src = card.url;
    image.alt = `${picture.name}, seed ${picture.seed}, guidance ${picture.omega}`;
    card.element.querySelector('span').textContent = caption;
    card.element.prepend(image);
    card.element.className = 'card';
    card.element.disabled = false;
    this.changed();
  }

  remove(card) {
    card.element.remove();
    if (card.url) URL.revokeObjectURL(card.url);
    this.cards = this.cards.filter((c) => c !== card);
  }

  dropWaiting(cards) {
    cards.filter((c) => !c.picture).forEach((c) => this.remove(c));
    this.changed();
  }

  clear() {
    this.cards.filter((c) => c.picture).forEach((c) => this.remove(c));
    this.changed();
  }

  done() {
    return this.cards.filter((c) => c.picture);
  }

  changed() {
    const any = this.done().length > 0;
    for (const id of ['save-zip', 'save-grid', 'clear']) $(id).disabled = !any;
    $('empty').hidden = this.cards.length > 0;
  }

  show(card) {
    const p = card.picture;
    this.open = card;
    $('viewer-image').src = card.url;
    $('viewer-image').alt = card.element.querySelector('img').alt;
    $('viewer-title').textContent = p.name;
    const facts = { Model: p.model, Class: p.class, Seed: p.seed, Steps: p.steps, Guidance: p.omega,
      Interval: `${p.t_min} to ${p.t_max}`, Fingerprint: p.fingerprint || '' };
    $('viewer-facts').replaceChildren(...Object.entries(facts).flatMap(([term, value]) => {
      const dt = document.createElement('dt');
      const dd = document.createElement('dd');
      dt.textContent = term;
      dd.textContent = value;
      return [dt, dd];
    }));
    $('save-png').href = card.url;
    $('save-png').download = `${p.class}_${p.seed}.png`;
    $('copied').textContent = '';
    if (!$('viewer').open) $('viewer').showModal();
  }

  step(by) {
    const done = this.done();
    const at = done.indexOf(this.open);
    if (done.length) this.show(done[(at + by + done.length) % done.length]);
  }

  leave(action) {
    const { picture } = this.open;
    $('viewer').close();
    action(picture);
  }

  async copy(text, message) {
    try {
      await copy(text);
      $('copied').textContent = message;
    } catch (e) {
      $('copied').textContent = `${e.message}: ${text}`;
    }
  }

  saveZip() {
    const seen = new Set();
    const files = this.done().map(({ picture: p, bytes }) => {
      let name = `${p.model}_${p.class}_${p.seed}_s${p.steps}_w${p.omega}.png`.replace(/[^\w.-]/g, '_');
      while (seen.has(name)) name = `_${name}`;
      seen.add(name);
      return { name, bytes };
    });
    save(zip(files), 'imfd.zip');
  }

  async saveGrid() {
    const images = await Promise.all(this.done().map((c) => createImageBitmap(new Blob([c.bytes], { type: 'image/png' }))));
    const columns = Math.ceil(Math.sqrt(images.length));
    const size = Math.max(...images.map((i) => i.width));
    const canvas = document.createElement('canvas');
    canvas.width = columns * size;
    canvas.height = Math.ceil(images.length / columns) * size;
    const context = canvas.getContext('2d');
    images.forEach((image, i) => context.drawImage(image, (i % columns) * size, Math.floor(i / columns) * size, size, size));
    canvas.toBlob((blob) => save(blob, 'imfd_grid.png'), 'image/png');
  }
}
