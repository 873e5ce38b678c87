// The class field: a combobox over all classes of the model, searched by any part of a name, an index
// or a WordNet id. "random" stands for any class.

export class ClassField {
  constructor(input, list) {
    this.input = input;
    this.list = list;
    this.classes = [];
    this.shown = [];
    this.active = -1;
    input.addEventListener('input', () => this.open());
    input.addEventListener('focus', () => { input.select(); this.open(); });
    input.addEventListener('blur', () => setTimeout(() => this.close(), 150));
    input.addEventListener('keydown', (e) => this.onKey(e));
    list.addEventListener('mousedown', (e) => {
      const item = e.target.closest('li');
      if (item) this.choose(this.shown[Number(item.dataset.at)]);
      e.preventDefault();
    });
  }

  setClasses(classes) {
    this.classes = classes.map((c) => ({ ...c, text: `${c.index} ${c.wordnet_id || ''} ${(c.names || [c.name]).join(' ')}`.toLowerCase() }));
    if (this.input.value && !this.value()) this.input.value = '';
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
    const found = this.classes.find((c) => c.index === Number(index));
    this.input.value = found ? found.name : '';
  }

  // Names that begin with the words come before those that only contain them.
  matches(text) {
    const words = text.toLowerCase().replace(/[_-]/g, ' ').split(/\s+/).filter(Boolean);
    const rank = (c) => (c.name.toLowerCase().startsWith(words[0] || '') ? 0 : 1);
    return this.classes.filter((c) => words.every((w) => c.text.replace(/[_-]/g, ' ').includes(w)))
      .sort((a, b) => rank(a) - rank(b) || a.index - b.index);
  }

  open() {
    this.shown = this.matches(this.value() && this.value().name === this.input.value ? '' : this.input.value).slice(0, 200);
    this.list.replaceChildren(...this.shown.map((c, i) => {
      const item = document.createElement('li');
      item.id = `class-${i}`;
      item.role = 'option';
      item.dataset.at = i;
      item.textContent = c.name;
      const index = document.createElement('small');
      index.textContent = c.index;
      item.append(index);
      return item;
    }));
    this.list.hidden = this.shown.length === 0;
    this.input.setAttribute('aria-expanded', String(!this.list.hidden));
    this.mark(this.input.value ? 0 : -1);
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute('aria-expanded', 'false');
    this.input.removeAttribute('aria-activedescendant');
  }

  mark(at) {
    this.active = at;
    [...this.list.children].forEach((item, i) => item.setAttribute('aria-selected', String(i === at)));
    if (at >= 0 && this.list.children[at]) {
      this.list.children[at].scrollIntoView({ block: 'nearest' });
      this.input.setAttribute('aria-activedescendant', `class-${at}`);
    }
  }

  choose(c) {
    if (c) this.input.value = c.name;
    this.close();
    this.input.dispatchEvent(new Event('change', { bubbles: true }));
  }

  onKey(e) {
    if (e.key === 'ArrowDown' || e.key === 'ArrowUp') {
      if (this.list.hidden) this.open();
      const n = this.shown.length;
      if (n) this.mark((this.active + (e.key === 'ArrowDown' ? 1 : -1) + n) % n);
      e.preventDefault();
    } else if (e.key === 'Enter' && !this.list.hidden && this.active >= 0) {
      this.choose(this.shown[this.active]);
      e.preventDefault();
    } else if (e.key === 'Escape' && !this.list.hidden) {
      this.close();
      e.preventDefault();
    }
  }
}
