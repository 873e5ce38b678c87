// Asks for pictures and puts them on the page as they come. One run is drawn at a time; while controls
// move, the newest run is redrawn in place, always with the latest settings.

import { ApiError, generate } from './api.js';
import { pictureBlob } from './gallery.js';
import { group } from './plan.js';

export class Artist {
  // tell: {begin(), progress(done, total, seconds), end(pictures, done, seconds, timings, idle), problem(error, again)}
  constructor(gallery, tell) {
    this.gallery = gallery;
    this.tell = tell;
    this.run = null;
    this.control = null;
    this.current = Promise.resolve();
    this.wanted = null;
    this.pumping = false;
  }

  stop() {
    this.wanted = null;
    this.control?.abort();
  }

  // A new run of pictures, before all earlier ones.
  draw(pictures, mode) {
    this.stop();
    const run = this.gallery.begin(pictures, mode);
    this.run = run;
    this.current = this.work(run, pictures, () => { this.gallery.remove(run); this.draw(pictures, mode); });
    return this.current;
  }

  // The newest run again, in place; calls that come while it is being drawn count as one.
  async redraw(pictures, mode) {
    if (!this.run || this.run.mode !== mode || this.run.cards.length !== pictures.length || !this.gallery.has(this.run)) {
      this.draw(pictures, mode);
      return;
    }
    this.wanted = pictures;
    if (this.pumping) return;
    this.pumping = true;
    await this.current;
    while (this.wanted) {
      const next = this.wanted;
      this.wanted = null;
      this.gallery.retitle(this.run, next);
      this.current = this.work(this.run, next, () => this.redraw(next, mode));
      await this.current;
    }
    this.pumping = false;
  }

  async work(run, pictures, again) {
    const control = new AbortController();
    this.control = control;
    const start = performance.now();
    const seconds = () => (performance.now() - start) / 1000;
    const cards = [...run.cards];
    let done = 0;
    this.tell.begin();
    const clock = setInterval(() => this.tell.progress(done, pictures.length, seconds()), 200);
    this.tell.progress(0, pictures.length, 0);
    const ask = async (positions) => {
      const { model, steps, omega, t_min, t_max } = pictures[positions[0]];
      const closing = await generate({ model, steps, omega, t_min, t_max, classes: positions.map((i) => pictures[i].class),
        seeds: positions.map((i) => pictures[i].seed) }, (image) => {
        const at = positions[image.index];
        this.gallery.fill(cards[at], pictures[at], pictureBlob(image.b64_json));
        this.tell.progress(++done, pictures.length, seconds());
      }, control.signal);
      positions.forEach((i) => { pictures[i].fingerprint = closing.imfd.fingerprint; });
      return closing.imfd.timings_ms;
    };
    const results = await Promise.allSettled(group(pictures).map(ask));
    clearInterval(clock);
    this.gallery.dropWaiting(run);
    if (this.control === control) this.control = null;
    const timings = results.filter((r) => r.status === 'fulfilled').map((r) => r.value);
    this.tell.end(pictures, done, seconds(), timings, this.control === null);
    const failed = results.find((r) => r.status === 'rejected')?.reason;
    if (failed && failed.name !== 'AbortError') {
      this.tell.problem(failed instanceof ApiError ? failed : new ApiError(0, { message: `no answer from the server (${failed.message})` }, 0), again);
    }
  }
}
