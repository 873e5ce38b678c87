// What went wrong, in the server's own words, and when it is worth trying again.

const TRIES = 5; // automatic ones, one after the other

export class Problem {
  constructor(panel) {
    this.panel = panel;
    this.tries = 0;
    this.timer = null;
  }

  // again: what to do when the server may have room. Where it said how long to wait, it is waited and tried.
  tell(error, again) {
    this.hide();
    const text = document.createElement('span');
    text.textContent = `${error.message}.`.replace(/([.!?])\.$/, '$1');
    this.panel.append(text);
    if (error.code) {
      const code = document.createElement('small');
      code.textContent = [error.status || '', error.code].join(' ').trim();
      text.append(' ', code);
    }
    if (again && (error.status === 503 || error.status === 429)) this.offer(error, again);
    this.panel.hidden = false;
  }

  offer(error, again) {
    const now = this.button('Try now', () => { this.hide(); again(); });
    if (!error.retryAfterMs || this.tries >= TRIES) return;
    this.tries++;
    const clock = document.createElement('span');
    clock.className = 'clock';
    now.before(clock);
    this.button('Stop waiting', () => { this.hide(); this.tries = 0; });
    const until = performance.now() + error.retryAfterMs;
    const tick = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      if (left <= 0) {
        this.hide();
        again();
        return;
      }
      clock.textContent = `Trying again in ${left} s`;
      this.timer = setTimeout(tick, 250);
    };
    tick();
  }

  button(text, action) {
    const b = document.createElement('button');
    b.type = 'button';
    b.textContent = text;
    b.onclick = action;
    this.panel.append(b);
    return b;
  }

  hide() {
    clearTimeout(this.timer);
    this.panel.replaceChildren();
    this.panel.hidden = true;
  }

  solved() {
    this.tries = 0;
    this.hide();
  }
}
