// The server as it is: which models there are, how far they are loaded, whether it answers at all.

import { get } from './api.js';

const $ = (id) => document.getElementById(id);

export let models = []; // of GET /v1/models
let connecting = null;

export const info = (id) => models.find((m) => m.id === id)?.imfd || {};

function state(kind, text) {
  $('state').dataset.state = kind;
  if ($('state').textContent !== text) $('state').textContent = text;
}

function loading(list) {
  const done = list.reduce((sum, m) => sum + (m.imfd.loaded ?? 1), 0) / list.length;
  $('empty-text').textContent = `Loading ${list.map((m) => m.id).join(', ')}: ${Math.round(done * 100)} %`;
  $('loading').hidden = false;
  $('loading').value = done;
}

// One look at the server. True when it can draw.
async function look() {
  try {
    models = (await get('v1/models')).data;
  } catch (e) {
    state('bad', e.status === 401 ? 'this server asks for an API key' : `no answer: ${e.message}`);
    $('empty-text').textContent = e.status === 401 ? 'This server asks for an API key.' : 'The server does not answer.';
    if (e.status === 401) askForKey();
    return false;
  }
  const waiting = models.filter((m) => m.imfd.state === 'loading');
  const ready = models.filter((m) => m.imfd.state === 'ready');
  if (waiting.length) {
    state('wait', `loading ${waiting.map((m) => m.id).join(', ')}`);
    loading(waiting);
    return false;
  }
  if (!ready.length) {
    state('bad', 'no model could be loaded; see the log of the server');
    $('empty-text').textContent = 'No model could be loaded: the log of the server tells why.';
    return false;
  }
  const { device, precision } = ready[0].imfd;
  state('good', `${models.length > 1 ? `${models.length} models` : ready[0].id} on ${device}, ${precision}`);
  $('empty-text').textContent = 'Choose a class and press Draw. Each picture takes one step.';
  $('loading').hidden = true;
  return true;
}

// Looks until the server can draw; after an outage this also takes the message away.
export function connect() {
  if (!connecting) {
    connecting = (async () => {
      while (!await look()) await new Promise((resolve) => setTimeout(resolve, 700));
      connecting = null;
    })();
  }
  return connecting;
}

export function askForKey() {
  if (!$('key-label').hidden) return;
  $('key-label').hidden = false;
  $('key').focus();
}
