// The sound of a take that is being made, as much like an <audio> element as the player needs. Fetches the stream,
// and hands its samples to the sound card one after another; where they come too slowly it waits for more.
const BEFORE_IT_BEGINS = 0.4; // seconds of sound at hand before it begins
const AFTER_A_WAIT = 1; // and before it goes on; twice as many after each wait, so that slow making means few and longer ones
const LONGEST_WAIT = 8;
const AHEAD = 20; // no more than so many seconds are fetched ahead
const HEADER_BYTES = 44;
const LOOK_EVERY = 100; // milliseconds

export class LiveSound extends EventTarget {
  paused = true;
  ended = false;
  error = null;
  arrived = false; // whether everything is here
  #url;
  #rate;
  #context = null;
  #gain = null;
  #stop = null; // of the request under way
  #timer = 0;
  #volume = 1;
  #muted = false;
  #held = []; // pieces that wait to be scheduled
  #heldSeconds = 0;
  #scheduled = 0; // seconds handed to the sound card
  #until = 0; // its time at which they are over
  #waits = true;
  #enough = BEFORE_IT_BEGINS;

  constructor(url, sampleRate) {
    super();
    this.#url = url;
    this.#rate = sampleRate;
  }

  #begin() {
    this.ended = false;
    this.error = null;
    this.arrived = false;
    this.#held = [];
    this.#heldSeconds = 0;
    this.#scheduled = 0;
    this.#until = 0;
    this.#waits = true;
    this.#enough = BEFORE_IT_BEGINS;
  }

  get currentTime() {
    return this.#context ? Math.max(0, this.#scheduled - Math.max(0, this.#until - this.#context.currentTime)) : 0;
  }
  set volume(volume) {
    this.#volume = volume;
    this.#applyVolume();
  }
  set muted(muted) {
    this.#muted = muted;
    this.#applyVolume();
  }
  #applyVolume() {
    if (this.#gain) this.#gain.gain.value = this.#muted ? 0 : this.#volume;
  }

  async play() {
    if (this.ended || this.error) this.#begin();
    if (!this.#context) {
      // At the rate of the take: pieces then meet without a seam.
      this.#context = new AudioContext({ sampleRate: this.#rate });
      this.#gain = this.#context.createGain();
      this.#gain.connect(this.#context.destination);
      this.#applyVolume();
    }
    this.paused = false;
    if (!this.#stop && !this.arrived) this.#follow();
    this.#timer ||= setInterval(() => this.#look(), LOOK_EVERY);
    this.#tell("play");
    if (this.#waits) this.#tell("waiting");
    await this.#context.resume();
  }

  pause() {
    if (this.paused) return;
    this.paused = true;
    this.#rest();
    this.#context?.suspend();
    this.#tell("pause");
  }

  /** End it for good. */
  close() {
    this.paused = true;
    this.#rest();
    this.#stop?.abort();
    this.#context?.close();
    this.#context = null;
  }

  #rest() {
    clearInterval(this.#timer);
    this.#timer = 0;
  }

  #tell(name) {
    this.dispatchEvent(new Event(name));
  }

  async #follow() {
    const stop = new AbortController();
    this.#stop = stop;
    try {
      const answer = await fetch(this.#url, { credentials: "same-origin", signal: stop.signal });
      if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error);
      const reader = answer.body.getReader();
      let bytes = new Uint8Array(0);
      let channels = 0;
      for (;;) {
        while (this.#heldSeconds + this.#until - this.#context.currentTime > AHEAD) await new Promise((go) => setTimeout(go, 500));
        const { done, value } = await reader.read();
        if (done) break;
        const joined = new Uint8Array(bytes.length + value.length);
        joined.set(bytes);
        joined.set(value, bytes.length);
        bytes = joined;
        if (!channels) {
          if (bytes.length < HEADER_BYTES) continue;
          channels = new DataView(bytes.buffer).getUint16(22, true);
          bytes = bytes.slice(HEADER_BYTES);
        }
        const whole = bytes.length - (bytes.length % (2 * channels));
        if (whole) this.#take(bytes.slice(0, whole), channels);
        bytes = bytes.slice(whole);
      }
      this.arrived = true;
      this.#go();
    } catch (error) {
      if (stop.signal.aborted) return;
      this.error = error;
      this.#rest();
      this.paused = true;
      this.#tell("error");
      this.#tell("pause");
    } finally {
      if (this.#stop === stop) this.#stop = null;
    }
  }

  #take(bytes, channels) {
    const samples = new DataView(bytes.buffer);
    const length = bytes.length / (2 * channels);
    const piece = this.#context.createBuffer(channels, length, this.#rate);
    for (let channel = 0; channel < channels; channel += 1) {
      const target = piece.getChannelData(channel);
      for (let index = 0; index < length; index += 1) target[index] = samples.getInt16(2 * (index * channels + channel), true) / 32768;
    }
    this.#held.push(piece);
    this.#heldSeconds += piece.duration;
    this.#go();
  }

  /** Schedule what is held, unless it has to grow first. */
  #go() {
    const context = this.#context;
    if (!context) return;
    if (this.#scheduled && this.#until <= context.currentTime) this.#wait();
    if (this.#waits) {
      if (!this.#heldSeconds || (this.#heldSeconds < this.#enough && !this.arrived)) return;
      // On the grid of samples, so that every piece begins on it.
      this.#until = Math.ceil((context.currentTime + 0.03) * this.#rate) / this.#rate;
      this.#waits = false;
      this.#tell("playing");
    }
    for (const piece of this.#held) {
      const source = new AudioBufferSourceNode(context, { buffer: piece });
      source.connect(this.#gain);
      source.start(this.#until);
      this.#until += piece.duration;
      this.#scheduled += piece.duration;
    }
    this.#held = [];
    this.#heldSeconds = 0;
  }

  #wait() {
    if (this.#waits || this.arrived) return;
    this.#waits = true;
    this.#enough = Math.min(LONGEST_WAIT, Math.max(AFTER_A_WAIT, 2 * this.#enough));
    this.#tell("waiting");
  }

  #look() {
    this.#tell("timeupdate");
    const isOver = !this.#heldSeconds && this.#context.currentTime >= this.#until;
    if (!isOver) return;
    if (!this.arrived) {
      if (this.#scheduled) this.#wait();
      return;
    }
    this.ended = true;
    this.#rest();
    this.#tell("ended");
  }
}
