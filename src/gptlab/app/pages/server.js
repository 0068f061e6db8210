// Ask the server: a mistake is an Error with the line that it answers.

async function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const reply = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!reply.ok) {
    const text = await reply.text();
    throw new Error(reply.headers.get("content-type") === "application/json" ? JSON.parse(text).error : text);
  }
  return reply;
}

export async function ask(path, body, signal) {
  return (await post(path, body, signal)).json();
}

// Yields the events of a text, one for each line, until it ends, or is not read any further.
export async function* events(path, body, signal) {
  const reader = (await post(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const event = JSON.parse(line);
        if (event.error) throw new Error(event.error);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever reads no further lets the server go on with others
  }
}
