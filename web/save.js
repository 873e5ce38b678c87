// Saving and copying what is on the page.

import { zip } from './zip.js';

export function save(blob, name) {
  const a = document.createElement('a');
  a.href = URL.createObjectURL(blob);
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10000);
}

// `near` is an element of the open dialog, if there is one: outside it nothing can be selected.
export async function copy(text, near = document.body) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = document.createElement('textarea'); // plain http: the old way
  area.value = text;
  near.append(area);
  area.select();
  const ok = document.execCommand('copy');
  area.remove();
  if (!ok) throw new Error('copying is not allowed here');
}

export function saveZip(cards) {
  const seen = new Set();
  const files = cards.map(({ picture: p, bytes }) => {
    let name = `${p.model}_${p.class}_${p.seed}_s${p.steps}_w${p.omega}.png`.replace(/[^\w.-]/g, '_');
    while (seen.has(name)) name = `_${name}`;
    seen.add(name);
    return { name, bytes };
  });
  save(zip(files), 'imfd.zip');
}

export async function saveGrid(cards) {
  const images = await Promise.all(cards.map((c) => createImageBitmap(new Blob([c.bytes], { type: 'image/png' }))));
  const columns = Math.ceil(Math.sqrt(images.length));
  const size = Math.max(...images.map((i) => i.width));
  const canvas = document.createElement('canvas');
  canvas.width = columns * size;
  canvas.height = Math.ceil(images.length / columns) * size;
  const context = canvas.getContext('2d');
  images.forEach((image, i) => context.drawImage(image, (i % columns) * size, Math.floor(i / columns) * size, size, size));
  canvas.toBlob((blob) => save(blob, 'imfd_grid.png'), 'image/png');
}
