// One picture at full size with its parameters, and walking on from it: through the pictures on the page,
// through seeds, through guidance. What is drawn here is drawn live and not kept unless asked.

import { curlCommand, generate, pictureUrl } from './api.js';
import { pictureBlob } from './gallery.js';
import { seedAfter } from './plan.js';
import { copy } from './save.js';

const $ = (id) => document.getElementById(id);
const HOLD_MS = 300; // a press longer than this ends when it is let go

export class Viewer {
  constructor(gallery, actions) {
    this.gallery = gallery;
    this.actions = actions; // {more(picture), sweep(picture)}
    this.card = null; // the card walked from
    this.now = null; // {picture, bytes, url} on show; is the card itself until something else is drawn
    this.wanted = null;
    this.busy = false;
    this.playing = false;
    $('previous').onclick = () => this.step(-1);
    $('next').onclick = () => this.step(1);
    $('close').onclick = () => $('viewer').close();
    $('copy-link').onclick = () => this.copy(pictureUrl(this.now.picture), 'Link copied');
    $('copy-curl').onclick = () => this.copy(curlCommand(this.now.picture), 'Command copied');
    $('more').onclick = () => this.leave(actions.more);
    $('sweep').onclick = () => this.leave(actions.sweep);
    $('keep').onclick = () => this.keep();
    $('seed-down').onclick = () => this.walk(-1);
    $('seed-up').onclick = () => this.walk(1);
    $('viewer-omega').oninput = () => this.want({ omega: Number($('viewer-omega').value) });
    $('viewer').addEventListener('keydown', (e) => this.onKey(e));
    $('viewer').addEventListener('click', (e) => { if (e.target === $('viewer')) $('viewer').close(); });
    $('viewer').addEventListener('close', () => this.closed());
    this.bindPlay($('play'));
  }

  bindPlay(button) {
    let since = 0;
    let before = false;
    button.onpointerdown = () => { since = performance.now(); before = this.playing; this.play(true); };
    const up = () => {
      if (!since) return;
      this.play(performance.now() - since < HOLD_MS && !before);
      since = 0;
    };
    button.onpointerup = up;
    button.onpointerleave = up;
    button.onpointercancel = up;
    button.oncontextmenu = (e) => e.preventDefault();
    button.onclick = (e) => { if (e.detail === 0) this.play(!this.playing); }; // by keyboard
  }

  show(card) {
    this.play(false);
    this.card = card;
    this.wanted = null;
    this.present(card);
    if (!$('viewer').open) $('viewer').showModal();
  }

  present(shown) {
    const p = shown.picture;
    if (this.now && this.now !== this.card && this.now !== shown && this.now.url) URL.revokeObjectURL(this.now.url);
    this.now = shown;
    $('viewer-image').src = shown.url;
    $('viewer-image').alt = `${p.name}, seed ${p.seed}, guidance ${p.omega}`;
    $('viewer-title').textContent = p.name;
    const facts = { Model: p.model, Class: p.class, Seed: p.seed, Guidance: p.omega, Interval: `${p.t_min} to ${p.t_max}`,
      Steps: p.steps, Fingerprint: p.fingerprint };
    $('viewer-facts').replaceChildren(...Object.entries(facts).filter(([, value]) => value !== undefined).flatMap(([term, value]) => {
      const dt = document.createElement('dt');
      const dd = document.createElement('dd');
      dt.textContent = term;
      dd.textContent = value;
      return [dt, dd];
    }));
    if (!this.wanted) $('viewer-omega').value = p.omega;
    $('viewer-omega-out').textContent = Number($('viewer-omega').value).toFixed(1);
    $('save-png').href = shown.url;
    $('save-png').download = `${p.class}_${p.seed}.png`;
    $('keep').hidden = shown === this.card;
    $('copied').textContent = '';
  }

  // The picture on show with some parameters changed, drawn as soon as the one before is there.
  want(change) {
    this.wanted = { ...(this.wanted || this.now.picture), ...change };
    if ('omega' in change) $('viewer-omega-out').textContent = change.omega.toFixed(1);
    this.pump();
  }

  walk(by) {
    const { seed } = this.wanted || this.now.picture;
    this.want({ seed: seedAfter(seed, by) });
  }

  async pump() {
    if (this.busy) return;
    this.busy = true;
    while (this.wanted) {
      const picture = this.wanted;
      const { model, steps, omega, t_min, t_max, seed } = picture;
      const { card } = this;
      try {
        let blob = null;
        const closing = await generate({ model, steps, omega, t_min, t_max, seed, class: picture.class },
          (image) => { blob = pictureBlob(image.b64_json); });
        picture.fingerprint = closing.imfd.fingerprint;
        if (this.card !== card || !$('viewer').open) {
          URL.revokeObjectURL(blob.url);
          continue;
        }
        if (this.wanted === picture) this.wanted = null;
        this.present({ picture, ...blob });
        if (this.playing && !this.wanted) this.walk(1);
      } catch (e) {
        this.wanted = null;
        this.play(false);
        $('copied').textContent = e.message;
      }
    }
    this.busy = false;
  }

  play(on) {
    if (on === this.playing) return;
    this.playing = on;
    $('play').setAttribute('aria-pressed', String(on));
    if (on) this.walk(1);
  }

  keep() {
    const { picture, bytes } = this.now;
    this.show(this.gallery.keep(this.card, picture, bytes));
    $('copied').textContent = 'Kept';
  }

  step(by) {
    const done = this.gallery.done();
    const at = done.indexOf(this.card);
    if (done.length) this.show(done[(at + by + done.length) % done.length]);
  }

  leave(action) {
    const { picture } = this.now;
    $('viewer').close();
    action(picture);
  }

  closed() {
    this.play(false);
    this.wanted = null;
    this.gallery.reach(this.card);
  }

  onKey(e) {
    if (e.target.type === 'range' || e.ctrlKey || e.metaKey || e.altKey) return;
    const action = { ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1), ArrowUp: () => this.walk(1), ArrowDown: () => this.walk(-1) }[e.key];
    if (!action) return;
    e.preventDefault();
    action();
  }

  async copy(text, message) {
    try {
      await copy(text, $('viewer'));
      $('copied').textContent = message;
    } catch (e) {
      $('copied').textContent = `${e.message}: ${text}`;
    }
  }
}
