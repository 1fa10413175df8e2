// The event stream: EventSource comes back by itself after most troubles; this sees to the others.

const SILENCE_MILLISECONDS = 20000; // a status comes every 5 s at least

export class Live {
  // `on`: {hello, told, missed, status, sample}, each given the message; `connected(boolean)`; `lost()`: ask anew.
  constructor({ on, connected, lost }) {
    this.on = on;
    this.connected = connected;
    this.lost = lost;
    this.source = null;
    this.watch = 0;
  }

  open() {
    this.close();
    const source = new EventSource("/api/stream");
    this.source = source;
    for (const [name, take] of Object.entries(this.on)) {
      source.addEventListener(name, (message) => {
        if (this.source !== source) return;
        this.alive();
        take(JSON.parse(message.data));
      });
    }
    source.onopen = () => this.alive();
    source.onerror = () => {
      if (this.source !== source) return;
      this.connected(false);
      // Closed: the answer was no stream, such as 401 after the session was started anew.
      if (source.readyState === EventSource.CLOSED) this.giveUp();
    };
    this.alive(false);
  }

  alive(tell = true) {
    if (tell) this.connected(true);
    clearTimeout(this.watch);
    this.watch = setTimeout(() => {
      this.connected(false);
      this.giveUp();
    }, SILENCE_MILLISECONDS);
  }

  giveUp() {
    this.close();
    this.lost();
  }

  close() {
    clearTimeout(this.watch);
    if (this.source) this.source.close();
    this.source = null;
  }
}
