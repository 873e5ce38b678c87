// The page: reads the controls, plans pictures, asks for them, and keeps the address shareable.

import { ApiError, generate, get, key } from './api.js';
import { ClassField } from './classes.js';
import { Gallery } from './gallery.js';

const $ = (id) => document.getElementById(id);
const MAX_SEED = 2 ** 53 - 1;
const classField = new ClassField($('class'), $('class-list'));
const gallery = new Gallery({
  more: (p) => { apply(p); $('seed').value = ''; mode('seeds'); draw(); },
  sweep: (p) => { apply(p); mode('omega'); draw(); },
});
let models = [];
let running = null; // AbortController of the pictures on their way

/* ---- Models and classes ---- */

const info = (id) => models.find((m) => m.id === id)?.imfd || {};

function fillModels() {
  const chosen = $('model').value;
  for (const select of [$('model'), $('other')]) {
    select.replaceChildren(...models.map((m) => new Option(m.id, m.id)));
  }
  if (models.some((m) => m.id === chosen)) $('model').value = chosen;
  if (models.length > 1) $('other').selectedIndex = 1;
  $('compare-label').hidden = models.length < 2;
}

function useDefaults() {
  const d = info($('model').value).defaults;
  if (!d) return;
  $('omega').value = d.omega;
  $('steps').value = d.steps;
  $('t-min').value = Number(d.t_min.toFixed(4));
  $('t-max').value = Number(d.t_max.toFixed(4));
  showOmega();
}

function showOmega() {
  $('omega-out').textContent = Number($('omega').value).toFixed(1);
}

async function useModel() {
  const id = $('model').value;
  const i = info(id);
  $('steps').max = i.max_steps || 64;
  $('count').max = i.max_n || 64;
  useDefaults();
  const list = await get(`v1/classes?limit=${i.classes || 1000}&model=${encodeURIComponent(id)}`);
  classField.setClasses(list.data);
}

// Waits for the models to be loaded, telling how far they are.
async function connect() {
  for (;;) {
    try {
      models = (await get('v1/models')).data;
      const loading = models.filter((m) => m.imfd.state === 'loading');
      const ready = models.find((m) => m.imfd.state === 'ready');
      if (ready && !loading.length) {
        const { device, precision } = ready.imfd;
        $('state').textContent = `${models.length > 1 ? `${models.length} models` : ready.id} on ${device}, ${precision}`;
        return;
      }
      $('state').textContent = loading.length
        ? `loading ${loading.map((m) => `${m.id} ${Math.round((m.imfd.loaded || 0) * 100)} %`).join(', ')}`
        : 'no model could be loaded; see the log of the server';
    } catch (e) {
      if (e.status === 401) askForKey();
      $('state').textContent = e.status === 401 ? 'this server asks for an API key' : `no answer: ${e.message}`;
    }
    await new Promise((resolve) => setTimeout(resolve, 700));
  }
}

function askForKey() {
  $('key-label').hidden = false;
}

/* ---- Planning ---- */

function mode(value) {
  const chosen = document.querySelector(`input[name=mode][value=${value ?? '""'}]`);
  if (chosen) chosen.checked = true;
  const now = document.querySelector('input[name=mode]:checked').value;
  $('other-label').hidden = now !== 'models';
  return now;
}

const randomSeed = () => Math.floor(Math.random() * 1e6);
const randomClass = () => classField.classes[Math.floor(Math.random() * classField.classes.length)];

function settings() {
  return {
    model: $('model').value,
    steps: Number($('steps').value) || 1,
    omega: Number($('omega').value),
    t_min: Number($('t-min').value),
    t_max: Number($('t-max').value),
  };
}

// The pictures the controls ask for: [{model, class, name, seed, steps, omega, t_min, t_max}].
function plan() {
  const base = settings();
  const n = Math.max(1, Math.min(Number($('count').value) || 1, Number($('count').max)));
  const first = $('seed').value === '' ? randomSeed() : Number($('seed').value);
  const one = classField.value();
  const of = (c) => ({ class: c.index, name: c.name });
  const fixed = of(one || randomClass());
  const numbers = Array.from({ length: n }, (_, i) => i);
  const seed = (i) => (first + i) % MAX_SEED;
  switch (mode()) {
    case 'classes':
      return numbers.map((i) => ({ ...base, ...of(randomClass()), seed: seed(i) }));
    case 'omega': {
      const top = Math.max(base.omega, 12);
      return numbers.map((i) => ({ ...base, ...fixed, seed: first, omega: Number((1 + (top - 1) * (n > 1 ? i / (n - 1) : 1)).toFixed(2)) }));
    }
    case 'models': {
      const other = $('other').value;
      const d = info(other).defaults || {};
      return numbers.flatMap((i) => [{ ...base, ...fixed, seed: seed(i) },
        { ...base, ...d, t_min: d.t_min ?? base.t_min, model: other, ...fixed, seed: seed(i) }]);
    }
    default:
      return numbers.map((i) => ({ ...base, ...(one ? fixed : of(randomClass())), seed: seed(i) }));
  }
}

// Pictures with equal model and guidance travel in one request.
function group(pictures) {
  const groups = new Map();
  pictures.forEach((p, i) => {
    const k = JSON.stringify([p.model, p.steps, p.omega, p.t_min, p.t_max]);
    if (!groups.has(k)) groups.set(k, []);
    groups.get(k).push(i);
  });
  return [...groups.values()];
}

/* ---- Drawing ---- */

const caption = (p) => {
  const now = mode();
  if (now === 'omega') return `guidance ${p.omega}`;
  if (now === 'models') return `${p.model} · ${p.seed}`;
  return `${p.name} · ${p.seed}`;
};

async function drawGroup(pictures, cards, signal, onPicture) {
  const p = pictures[0];
  const request = { model: p.model, steps: p.steps, omega: p.omega, t_min: p.t_min, t_max: p.t_max,
    classes: pictures.map((q) => q.class), seeds: pictures.map((q) => q.seed) };
  return generate(request, (image) => {
    const q = pictures[image.index];
    q.name = image.class_name || q.name;
    gallery.fill(cards[image.index], q, image.b64_json, caption(q));
    onPicture();
  }, signal);
}

function tell(e) {
  $('problem').replaceChildren();
  $('problem').hidden = !e;
  if (!e) return;
  const text = document.createElement('span');
  const wait = e.retryAfterMs ? ` The server asks to wait ${Math.ceil(e.retryAfterMs / 1000)} s.` : '';
  text.textContent = `${e.message}.`.replace(/\.\.$/, '.') + wait;
  $('problem').append(text);
  if (e.status === 503 || e.status === 429) {
    const again = document.createElement('button');
    again.type = 'button';
    again.textContent = 'Try again';
    again.onclick = draw;
    $('problem').append(again);
  }
  if (e.status === 401) askForKey();
}

async function draw() {
  if (running) running.abort();
  if (classField.invalid()) {
    tell(new Error(`There is no class "${$('class').value}"`));
    return;
  }
  tell(null);
  const control = new AbortController();
  running = control;
  const pictures = plan();
  const cards = gallery.expect(pictures.map(caption));
  const start = performance.now();
  let done = 0;
  remember();
  $('stop').hidden = false;
  $('summary').textContent = `0 of ${pictures.length}`;
  const onPicture = () => { $('summary').textContent = `${++done} of ${pictures.length}`; };
  const results = await Promise.allSettled(group(pictures).map((indices) =>
    drawGroup(indices.map((i) => pictures[i]), indices.map((i) => cards[i]), control.signal, onPicture)));
  gallery.dropWaiting(cards);
  if (running === control) {
    running = null;
    $('stop').hidden = true;
  }
  const failed = results.find((r) => r.status === 'rejected');
  if (failed && failed.reason.name !== 'AbortError') {
    tell(failed.reason instanceof ApiError ? failed.reason : new Error(`no answer: ${failed.reason.message}`));
  }
  const closing = results.filter((r) => r.status === 'fulfilled').map((r) => r.value.imfd);
  closing.forEach((c) => pictures.forEach((p) => { if (p.omega === c.omega) p.fingerprint ||= c.fingerprint; }));
  summarise(done, (performance.now() - start) / 1000, closing.map((c) => c.timings_ms));
}

function summarise(done, seconds, timings) {
  const most = (k) => Math.max(0, ...timings.map((t) => t[k] || 0));
  const parts = ['queue', 'denoise', 'decode', 'encode'].map((k) => `${k} ${most(k).toFixed(0)} ms`);
  $('summary').textContent = done
    ? `${done} picture${done > 1 ? 's' : ''} in ${seconds.toFixed(2)} s` + (timings.length ? ` (${parts.join(', ')})` : '')
    : '';
}

/* ---- The address holds the settings ---- */

function remember() {
  const s = settings();
  const c = classField.value();
  const p = new URLSearchParams({ ...s, class: c ? c.index : 'random', n: $('count').value, mode: mode() });
  if ($('seed').value !== '') p.set('seed', $('seed').value);
  history.replaceState(null, '', `#${p}`);
}

function apply(p) {
  classField.set(p.class);
  for (const [id, value] of [['seed', p.seed], ['steps', p.steps], ['omega', p.omega], ['t-min', p.t_min], ['t-max', p.t_max], ['count', p.n]]) {
    if (value !== undefined && value !== null && value !== '') $(id).value = value;
  }
  showOmega();
}

function recall() {
  const p = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (!Object.keys(p).length) return false;
  apply(p);
  mode(p.mode);
  return true;
}

async function start() {
  $('key').value = key.get();
  $('key').onchange = () => key.set($('key').value);
  $('controls').onsubmit = (e) => { e.preventDefault(); draw(); };
  $('stop').onclick = () => running?.abort();
  $('omega').oninput = showOmega;
  $('model').onchange = useModel;
  $('defaults').onclick = useDefaults;
  $('any').onclick = () => { $('class').value = 'random'; };
  $('dice').onclick = () => { $('seed').value = ''; };
  document.querySelectorAll('input[name=mode]').forEach((r) => { r.onchange = () => mode(); });
  await connect();
  fillModels();
  const wanted = new URLSearchParams(location.hash.slice(1)).get('model');
  if (models.some((m) => m.id === wanted)) $('model').value = wanted;
  await useModel();
  const recalled = recall();
  // A small model answers at once: show what it can do. A big one waits to be asked.
  if (!recalled && info($('model').value).parameters < 2e7) {
    mode('classes');
    draw();
  }
}

start();
