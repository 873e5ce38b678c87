// Which pictures the controls ask for. Nothing here touches the page.
// A picture is {model, class, name, seed, steps, omega, t_min, t_max}.

export const MAX_SEED = 2 ** 53 - 1;

// `by` seeds on, around the ends; exact where a plain sum would not be.
export function seedAfter(seed, by) {
  if (by >= 0) return seed > MAX_SEED - by ? by - (MAX_SEED - seed) - 1 : seed + by;
  return seed + by >= 0 ? seed + by : MAX_SEED + (seed + by) + 1;
}

export const randomSeed = () => Math.floor(Math.random() * 1e6);

export const HINTS = {
  seeds: 'One class; every picture has a seed of its own.',
  classes: 'Each picture is of another class.',
  omega: 'One seed, from no guidance to strong guidance.',
  models: 'The same class and seeds by two models, side by side.',
};

// The list in an order that depends on the seed alone: a shared address shows the same classes.
export function shuffled(list, seed) {
  const out = [...list];
  let state = seed % 2 ** 32;
  for (let i = out.length - 1; i > 0; i--) {
    state = (state + 0x6d2b79f5) | 0; // mulberry32
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    const j = ((x ^ (x >>> 14)) >>> 0) % (i + 1);
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}

// wish: {mode, model, other: {id, defaults}, chosen (a class or null), classes, n, first (seed), sampling}
export function plan(wish) {
  const { mode, n, first, sampling } = wish;
  const order = shuffled(wish.classes, first);
  const of = (c) => ({ class: c.index, name: c.name });
  const fixed = of(wish.chosen || order[0]);
  const base = { model: wish.model, ...sampling };
  const numbers = Array.from({ length: n }, (_, i) => i);
  const seed = (i) => seedAfter(first, i);
  if (mode === 'omega') {
    const top = Math.max(sampling.omega, 12);
    const omega = (i) => Number((1 + (top - 1) * (n > 1 ? i / (n - 1) : 1)).toFixed(2));
    return numbers.map((i) => ({ ...base, ...fixed, seed: first, omega: omega(i) }));
  }
  if (mode === 'models') {
    const other = { ...base, ...wish.other.defaults, model: wish.other.id };
    return numbers.flatMap((i) => [{ ...base, ...fixed, seed: seed(i) }, { ...other, ...fixed, seed: seed(i) }]);
  }
  if (mode === 'classes') {
    return numbers.map((i) => ({ ...base, ...of(order[i % order.length]), seed: seed(i) }));
  }
  return numbers.map((i) => ({ ...base, ...fixed, seed: seed(i) }));
}

// Pictures with equal model and guidance travel in one request: lists of positions.
export function group(pictures) {
  const groups = new Map();
  pictures.forEach((p, i) => {
    const k = JSON.stringify([p.model, p.steps, p.omega, p.t_min, p.t_max]);
    if (!groups.has(k)) groups.set(k, []);
    groups.get(k).push(i);
  });
  return [...groups.values()];
}

export function caption(p, mode) {
  if (mode === 'omega') return `guidance ${p.omega}`;
  if (mode === 'models') return `${p.model} · ${p.seed}`;
  return mode === 'classes' ? p.name : String(p.seed);
}

// Title and note of a run of pictures.
export function describe(pictures, mode) {
  const p = pictures[0];
  const last = pictures[pictures.length - 1];
  const one = pictures.every((q) => q.class === p.class);
  const steps = `${p.steps} step${p.steps > 1 ? 's' : ''}`;
  const seeds = p.seed === last.seed ? `seed ${p.seed}` : `seeds ${p.seed} to ${last.seed}`;
  const title = one ? p.name : 'Any class';
  if (mode === 'omega') return { title, note: `guidance ${p.omega} to ${last.omega}, ${steps}, ${seeds}` };
  if (mode === 'models') return { title, note: `${p.model} beside ${last.model}, ${seeds}` };
  return { title, note: `guidance ${p.omega}, ${steps}, ${seeds}` };
}
