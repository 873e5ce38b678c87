// Talking to the server: plain JSON, and pictures as they become ready (server-sent events).

export class ApiError extends Error {
  constructor(status, error, retryAfterMs) {
    super(error?.message || `the server answered ${status}`);
    this.status = status;
    this.code = error?.code;
    this.param = error?.param;
    this.retryAfterMs = retryAfterMs;
  }
}

export const key = {
  get: () => sessionStorage.getItem('imfd-key') || '',
  set: (value) => sessionStorage.setItem('imfd-key', value),
};

function headers(more) {
  return key.get() ? { Authorization: `Bearer ${key.get()}`, ...more } : { ...more };
}

async function check(response) {
  if (response.ok) return response;
  let body = null;
  try {
    body = await response.json();
  } catch {
    // Not ours: a proxy's own page, say.
  }
  const wait = Number(response.headers.get('retry-after-ms')) || Number(response.headers.get('retry-after')) * 1000;
  throw new ApiError(response.status, body?.error, wait || 0);
}

export async function get(path) {
  return (await check(await fetch(path, { headers: headers() }))).json();
}

// Splits a byte stream into events {event, data}; comments (": ping") are dropped.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf('\n\n')) >= 0) {
      const event = { event: 'message', data: '' };
      for (const line of text.slice(0, end).split('\n')) {
        if (line.startsWith('event: ')) event.event = line.slice(7);
        if (line.startsWith('data: ')) event.data += line.slice(6);
      }
      text = text.slice(end + 2);
      if (event.data) yield event;
    }
  }
}

// Asks for pictures; onImage is called for each as it is ready. Resolves to the closing event.
export async function generate(request, onImage, signal) {
  const response = await check(await fetch('v1/generate', {
    method: 'POST',
    headers: headers({ 'Content-Type': 'application/json', Accept: 'text/event-stream' }),
    body: JSON.stringify(request),
    signal,
  }));
  for await (const { event, data } of events(response.body)) {
    const value = JSON.parse(data);
    if (event === 'image') onImage(value);
    if (event === 'done') return value;
    if (event === 'error') throw new ApiError(500, value.error || value, 0);
  }
  throw new ApiError(0, { message: 'the connection ended before all pictures had come' }, 0);
}

export function pictureUrl(picture) {
  const p = new URLSearchParams({ steps: picture.steps, omega: picture.omega, t_min: picture.t_min, t_max: picture.t_max });
  return new URL(`v1/images/${encodeURIComponent(picture.model)}/${picture.class}/${picture.seed}.png?${p}`, document.baseURI).href;
}

export function curlCommand(picture) {
  const body = { model: picture.model, class: picture.class, seed: picture.seed, steps: picture.steps,
    omega: picture.omega, t_min: picture.t_min, t_max: picture.t_max };
  return `curl -H 'Content-Type: application/json' -H 'Accept: image/png' -d '${JSON.stringify(body)}' ` +
    `-o ${picture.class}_${picture.seed}.png ${new URL('v1/generate', document.baseURI).href}`;
}
