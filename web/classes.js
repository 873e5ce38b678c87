// The class field: a combobox over all classes of the model, searched by any part of a name, an index
// or a WordNet id; nothing in it stands for any class. Below it some classes to pick with one click.

const FEW = 40; // so many classes fit on the page as pictures
const SUGGESTED = [207, 360, 387, 88, 979, 974, 417, 279, 985, 323, 933, 291]; // of ImageNet

const plain = (text) => text.toLowerCase().replace(/[_-]/g, ' ');

// `text` with the first place where `word` occurs marked.
function marked(text, word) {
  const span = document.createElement('span');
  const at = word ? plain(text).indexOf(word) : -1;
  if (at < 0) {
    span.textContent = text;
    return span;
  }
  const mark = document.createElement('mark');
  mark.textContent = text.slice(at, at + word.length);
  span.append(text.slice(0, at), mark, text.slice(at + word.length));
  return span;
}

export class ClassField {
  // onPick(class or null): something was chosen, not only typed.
  constructor(input, list, chips, onPick) {
    Object.assign(this, { input, list, chips, onPick, classes: [], shown: [], active: -1 });
    input.addEventListener('input', () => { this.open(true); this.press(); });
    input.addEventListener('click', () => { input.select(); this.open(); });
    input.addEventListener('blur', () => this.close());
    input.addEventListener('keydown', (e) => this.onKey(e));
    list.addEventListener('mousedown', (e) => e.preventDefault()); // the field keeps the focus
    list.addEventListener('click', (e) => {
      const item = e.target.closest('li[data-at]');
      if (item) this.choose(this.shown[Number(item.dataset.at)]);
    });
  }

  setClasses(classes) {
    this.classes = classes.map((c) => ({ ...c, text: plain(`${c.index} ${c.wordnet_id || ''} ${(c.names || [c.name]).join(' ')}`) }));
    if (this.input.value && !this.value()) this.input.value = '';
    this.input.placeholder = `any of ${classes.length} classes`;
  }

  few() {
    return this.classes.length <= FEW;
  }

  // Classes to pick with one click, by name, or as pictures that `illustrate` brings.
  suggest(pictured) {
    const some = this.few() ? this.classes : SUGGESTED.map((i) => this.classes[i]).filter(Boolean);
    this.chips.className = pictured ? 'pictured' : '';
    this.chips.replaceChildren(...some.map((c) => {
      const chip = document.createElement('button');
      chip.type = 'button';
      chip.className = 'chip';
      chip.dataset.index = c.index;
      chip.onclick = () => this.choose(c);
      if (pictured) {
        chip.title = c.name;
        chip.setAttribute('aria-label', c.name);
      } else {
        chip.textContent = c.name;
      }
      return chip;
    }));
    this.press();
  }

  illustrate(index, url) {
    const chip = this.chips.querySelector(`[data-index="${index}"]`);
    const image = document.createElement('img');
    image.alt = '';
    image.src = url;
    image.onload = () => URL.revokeObjectURL(url);
    chip?.replaceChildren(image);
  }

  press() {
    const now = this.value();
    for (const chip of this.chips.children) chip.setAttribute('aria-pressed', String(now?.index === Number(chip.dataset.index)));
  }

  // The chosen class {index, name, ...}, or null for any.
  value() {
    const text = this.input.value.trim().toLowerCase();
    if (!text || text === 'random') return null;
    const exact = this.classes.find((c) => c.name.toLowerCase() === text || String(c.index) === text || c.wordnet_id === text);
    return exact || this.matches(text)[0] || null;
  }

  invalid() {
    const text = this.input.value.trim().toLowerCase();
    return Boolean(text) && text !== 'random' && !this.value();
  }

  set(index) {
    const found = index === '' ? null : this.classes.find((c) => c.index === Number(index));
    this.input.value = found ? found.name : '';
    this.press();
  }

  // The very name comes first, then names that begin with the words, names with a word that does, and the rest.
  matches(text) {
    const words = plain(text).split(/\s+/).filter(Boolean);
    const first = words.join(' ');
    const rank = (c) => (plain(c.name) === first ? 0 : plain(c.name).startsWith(first) ? 1 : ` ${c.text}`.includes(` ${first}`) ? 2 : 3);
    return this.classes.filter((c) => words.every((w) => c.text.includes(w)))
      .sort((a, b) => rank(a) - rank(b) || a.index - b.index);
  }

  // What matches the text; all classes, at the chosen one, where the text is a class and was not just typed.
  open(typed) {
    const text = this.input.value;
    const chosen = !typed && this.value()?.name === text ? this.value() : null;
    const word = chosen ? '' : text;
    this.shown = this.matches(word);
    this.list.replaceChildren(...this.shown.map((c, i) => {
      const item = document.createElement('li');
      item.id = `class-${i}`;
      item.role = 'option';
      item.dataset.at = i;
      const index = document.createElement('small');
      index.textContent = c.index;
      item.append(marked(c.name, plain(word).trim()), index);
      if (c.names?.length > 1) {
        const others = document.createElement('small');
        others.className = 'others';
        others.append(marked(c.names.slice(1).join(', '), plain(word).trim()));
        item.append(others);
      }
      return item;
    }));
    if (!this.shown.length) {
      const none = document.createElement('li');
      none.role = 'option';
      none.ariaDisabled = 'true';
      none.textContent = 'No class has that in its name.';
      this.list.append(none);
    }
    this.list.hidden = false;
    this.list.scrollTop = 0;
    this.input.setAttribute('aria-expanded', 'true');
    this.mark(chosen ? this.shown.indexOf(chosen) : this.shown.length && text ? 0 : -1);
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute('aria-expanded', 'false');
    this.input.removeAttribute('aria-activedescendant');
  }

  mark(at) {
    this.active = at;
    [...this.list.children].forEach((item, i) => item.setAttribute('aria-selected', String(i === at)));
    this.input.removeAttribute('aria-activedescendant');
    if (at < 0) return;
    this.list.children[at].scrollIntoView({ block: 'nearest' });
    this.input.setAttribute('aria-activedescendant', `class-${at}`);
  }

  choose(c) {
    this.input.value = c ? c.name : '';
    this.close();
    this.press();
    this.onPick(c);
  }

  onKey(e) {
    const n = this.shown.length;
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[e.key];
    if (by) {
      e.preventDefault();
      if (this.list.hidden) this.open();
      else if (n && Math.abs(by) === 1) this.mark(this.active < 0 && by < 0 ? n - 1 : (this.active + by + n) % n);
      else if (n) this.mark(Math.max(0, Math.min(n - 1, this.active + by)));
    } else if (e.key === 'Enter' && !this.list.hidden && this.active >= 0) {
      e.preventDefault();
      this.choose(this.shown[this.active]);
    } else if (e.key === 'Escape' && !this.list.hidden) {
      e.preventDefault();
      this.close();
    }
  }
}
