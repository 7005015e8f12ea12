// The server's API: JSON requests, and streams of events.

const KEY = "trimix-edge-key";

export class ApiError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const getKey = () => sessionStorage.getItem(KEY) || "";
export const setKey = (key) => sessionStorage.setItem(KEY, key);

async function request(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (getKey()) headers.Authorization = `Bearer ${getKey()}`;
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer.", 0, "away");
  }
  if (response.ok) return response;
  let told = {};
  try {
    told = (await response.json()).error || {};
  } catch {
    // Whatever stands between here and the server has answered in its own way.
  }
  throw new ApiError(told.message || `HTTP ${response.status}`, response.status, told.code);
}

export const get = async (path) => (await request(path)).json();

// The events of a stream, as objects. Aborting the signal ends the generation on the server.
export async function* stream(path, body, signal) {
  const response = await request(path, { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new ApiError("The answer was cut off: the server has gone.", 0, "away");
      held += value;
      const events = held.split("\n\n");
      held = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue;
        const data = event.slice(6);
        if (data === "[DONE]") return;
        const content = JSON.parse(data);
        if (content.error) throw new ApiError(content.error.message, 500, content.error.code);
        yield content;
      }
    }
  } catch (error) {
    if (error instanceof TypeError) throw new ApiError("The server has gone.", 0, "away");
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}
