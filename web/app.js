// The page: controls, the server's state, and an address that holds the settings.

import { generate, get, key } from './api.js';
import { Artist } from './artist.js';
import { ClassField } from './classes.js';
import { Gallery, pictureBlob } from './gallery.js';
import { HINTS, plan, randomSeed } from './plan.js';
import { Problem } from './problem.js';
import { copy } from './save.js';
import { askForKey, connect, info, models } from './server.js';
import { Viewer } from './viewer.js';

const $ = (id) => document.getElementById(id);
const FAST_MS = 400; // a picture; below this, moving a slider redraws at once
const SMALL = 2e7; // parameters; such a model is fast until measured

const problem = new Problem($('problem'));
const gallery = new Gallery((card) => viewer.show(card));
const viewer = new Viewer(gallery, {
  more: (p) => { recall({ ...p, seed: '' }); mode('seeds'); draw(); },
  sweep: (p) => { recall(p); mode('omega'); draw(); },
});
const classField = new ClassField($('class'), $('class-list'), $('chips'), (c) => {
  if (c && mode() === 'classes') mode('seeds');
  draw();
});
const artist = new Artist(gallery, { begin, progress, end, problem: failed });
const speed = {}; // measured ms a picture, by model
let first = null; // seed of the newest run's first picture
let illustrated = null; // the model whose classes are on show as pictures
let liveChosen = false; // by hand, not by the model's speed

/* ---- Models ---- */

const fast = () => (speed[$('model').value] ?? (info($('model').value).parameters < SMALL ? 0 : Infinity)) < FAST_MS;

const options = (list) => list.map((m) => {
  const option = new Option(m.imfd.state === 'ready' ? m.id : `${m.id} (${m.imfd.state})`, m.id);
  option.disabled = m.imfd.state !== 'ready';
  return option;
});

function fillModels() {
  $('model').replaceChildren(...options(models));
  $('model-label').hidden = models.length < 2;
}

// Models that know the same classes can be compared.
function fillOthers() {
  const others = models.filter((m) => m.id !== $('model').value && m.imfd.classes === info($('model').value).classes && m.imfd.state === 'ready');
  $('other').replaceChildren(...options(others));
  $('compare-label').hidden = !others.length;
  if (!others.length && mode() === 'models') mode('seeds');
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

async function useModel() {
  const id = $('model').value;
  $('steps').max = info($('model').value).max_steps || 64;
  $('count').max = info($('model').value).max_n || 64;
  if (!liveChosen) $('live').checked = fast();
  useDefaults();
  fillOthers();
  classField.setClasses((await get(`v1/classes?limit=${info($('model').value).classes || 1000}&model=${encodeURIComponent(id)}`)).data);
  illustrated = null;
  classField.suggest(classField.few() && info($('model').value).parameters < SMALL);
}

// Once the first pictures are there: classes as pictures, behind everything that anybody waits for.
async function illustrate() {
  const id = $('model').value;
  if (illustrated === id || $('chips').className !== 'pictured') return;
  illustrated = id;
  const labels = classField.classes.map((c) => c.index);
  const most = info($('model').value).max_n || 1;
  try {
    for (let i = 0; i < labels.length; i += most) {
      const classes = labels.slice(i, i + most);
      await generate({ model: id, classes, seeds: classes.map(() => 1), priority: 9 }, (image) => {
        if ($('model').value === id) classField.illustrate(image.class, pictureBlob(image.b64_json).url);
      });
    }
  } catch {
    if ($('model').value === id) classField.suggest(false); // names do as well
  }
}

/* ---- Controls ---- */

const mode = (value) => {
  const chosen = document.querySelector(`input[name=mode][value="${value}"]`);
  if (chosen) chosen.checked = true;
  const now = document.querySelector('input[name=mode]:checked').value;
  $('other-label').hidden = now !== 'models';
  $('mode-hint').textContent = HINTS[now];
  return now;
};

function showOmega() {
  $('omega-out').textContent = Number($('omega').value).toFixed(1);
}

const sampling = () => ({
  steps: Number($('steps').value) || 1,
  omega: Number($('omega').value),
  t_min: Number($('t-min').value),
  t_max: Number($('t-max').value),
});

function wish() {
  const other = $('other').value;
  // Without a class each picture is of another.
  const chosen = classField.value();
  return { mode: mode() === 'seeds' && !chosen ? 'classes' : mode(), model: $('model').value, other: { id: other, defaults: info(other).defaults }, chosen,
    classes: classField.classes, n: Math.max(1, Math.min(Number($('count').value) || 1, Number($('count').max))), first, sampling: sampling() };
}

// `from`: the first seed, where it is neither the field's nor a new one.
function draw(from) {
  if (classField.invalid()) {
    problem.tell({ message: `There is no class "${$('class').value}"` });
    return;
  }
  if (!classField.classes.length) return;
  first = from ?? ($('seed').value === '' ? randomSeed() : Number($('seed').value));
  remember();
  const what = wish();
  artist.draw(plan(what), what.mode);
}

// A control moved: the newest pictures follow it where the model is quick enough.
function follow() {
  if (!$('live').checked || first === null || classField.invalid()) return;
  if ($('seed').value !== '') first = Number($('seed').value);
  remember();
  const what = wish();
  artist.redraw(plan(what), what.mode);
}

/* ---- What the artist tells ---- */

function begin() {
  problem.hide();
  $('stop').hidden = false;
}

function progress(done, total, seconds) {
  $('summary').textContent = `${done} of ${total}${!done && seconds > 0.5 ? `, waiting for ${seconds.toFixed(1)} s` : ''}`;
}

function end(pictures, done, seconds, timings, idle) {
  if (idle) $('stop').hidden = true;
  const most = (k) => Math.max(0, ...timings.map((t) => t[k] || 0)).toFixed(0);
  const decoder = pictures.some((p) => info(p.model).decoder !== 'none') ? `decoder ${most('decode')}, ` : '';
  $('summary').textContent = done ? `${done} picture${done > 1 ? 's' : ''} in ${seconds.toFixed(2)} s`
    + (timings.length ? `: queue ${most('queue')}, network ${most('denoise')}, ${decoder}PNG ${most('encode')} ms` : '') : '';
  if (!timings.length) return;
  problem.solved();
  speed[pictures[0].model] = (seconds * 1000) / done;
  if (!liveChosen) $('live').checked = fast();
  illustrate();
}

function failed(error, again) {
  problem.tell(error, again);
  if (error.status === 401) askForKey();
  if (error.status === 0) connect().then(() => problem.solved());
}

/* ---- The address holds the settings ---- */

function remember() {
  const p = new URLSearchParams({ model: $('model').value, class: classField.value()?.index ?? 'random', n: $('count').value, mode: mode(), ...sampling() });
  if (mode() === 'models') p.set('other', $('other').value);
  // "drew" gives back the same pictures without holding the seed fast for the next ones.
  p.set($('seed').value === '' ? 'drew' : 'seed', first);
  history.replaceState(null, '', `#${p}`);
}

function recall(p) {
  if (p.class !== undefined) classField.set(p.class);
  for (const [id, name] of [['seed', 'seed'], ['steps', 'steps'], ['omega', 'omega'], ['t-min', 't_min'], ['t-max', 't_max'], ['count', 'n']]) {
    if (p[name] !== undefined && p[name] !== null) $(id).value = p[name];
  }
  if ([...$('other').options].some((o) => o.value === p.other)) $('other').value = p.other;
  showOmega();
}

// Draws what the address asks for; says whether it asks for anything.
function followAddress() {
  const p = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (!Object.keys(p).length) return false;
  recall({ seed: '', ...p });
  mode(p.mode === 'models' && !$('other').value ? 'seeds' : p.mode);
  draw(/^\d{1,16}$/.test(p.drew) && !p.seed ? Number(p.drew) : undefined);
  return true;
}

/* ---- Start ---- */

function bind() {
  $('key').value = key.get();
  $('key').oninput = () => key.set($('key').value);
  $('controls').onsubmit = (e) => { e.preventDefault(); draw(); };
  $('stop').onclick = () => artist.stop();
  $('omega').oninput = () => { showOmega(); if (mode() !== 'omega') follow(); };
  for (const id of ['steps', 'seed', 't-min', 't-max', 'other']) $(id).onchange = follow;
  $('model').onchange = async () => { await useModel(); follow(); illustrate(); };
  $('defaults').onclick = () => { useDefaults(); follow(); };
  $('any').onclick = () => classField.choose(classField.classes[Math.floor(Math.random() * classField.classes.length)]);
  $('live').onchange = () => { liveChosen = true; };
  $('dice').onclick = () => { $('seed').value = ''; };
  $('share').onclick = () => copy(location.href).then(() => { $('summary').textContent = 'Link copied'; }, (e) => problem.tell(e));
  document.querySelectorAll('input[name=mode]').forEach((r) => { r.onchange = () => { mode(); follow(); }; });
  addEventListener('hashchange', () => followAddress());
  addEventListener('keydown', (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || $('viewer').open || /INPUT|SELECT|TEXTAREA/.test(e.target.tagName)) return;
    if (e.key === '/') { e.preventDefault(); $('class').focus(); $('class').select(); classField.open(); }
    if (e.key === 'r' || e.key === 'R') $('any').click();
  });
  const narrow = matchMedia('(max-width: 50rem)');
  const fold = () => { $('settings').open = !narrow.matches; };
  narrow.onchange = fold;
  fold();
  mode();
}

async function start() {
  bind();
  await connect();
  fillModels();
  const wanted = new URLSearchParams(location.hash.slice(1)).get('model');
  $('model').value = (models.find((m) => m.id === wanted) || models.find((m) => m.imfd.state === 'ready')).id;
  await useModel();
  // A small model answers at once: show what it can do. A big one waits to be asked.
  if (!followAddress() && fast()) {
    mode('classes');
    draw();
  }
}

start();
