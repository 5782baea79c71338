// The one sound of the studio and the bar at the bottom. It lives outside <main> and goes on across pages.
// Knows a take only as the plain object that takes.js reads from a row.
import { LiveSound } from "./livesound.js";
import { recall, remember } from "./remember.js";
import { showToast } from "./toasts.js";
import { clock } from "./wording.js";

const bar = document.querySelector("[data-player]");
const audio = bar?.querySelector("[data-player-audio]");
const part = (name) => bar.querySelector(`[data-player-${name}]`);
const stillness = window.matchMedia("(prefers-reduced-motion: reduce)");

let take = null;
let sound = audio; // what is heard: the element, or a take that is being made
let muted = false;
let volume = 1; // as the person set it; takes compared by ear are played at one loudness below it

const tell = () => document.dispatchEvent(new CustomEvent("player:change"));

export const player = {
  get take() {
    return take;
  },
  get isPlaying() {
    return take !== null && !sound.paused && !sound.ended;
  },
  get hasEnded() {
    return take !== null && sound.ended;
  },
  get position() {
    return sound?.currentTime ?? 0;
  },

  /** Make `next` the take in the player; the sound of another one ends. */
  load(next) {
    if (!bar) return;
    const same = take?.id === next.id;
    // From one take of a comparison to another the music goes on where it was.
    const at = !same && take?.group && take.group === next.group && !audio.ended ? audio.currentTime : 0;
    take = next;
    if (!same) {
      hush();
      if (next.live) sound = attach(new LiveSound(next.url, next.sampleRate));
      else audio.src = next.url;
      if (at > 0) audio.currentTime = Math.min(at, next.duration);
      bar.removeAttribute("data-trouble");
    }
    applyVolume();
    bar.hidden = false;
    part("title").textContent = next.title;
    part("facts").textContent = next.facts;
    part("length").textContent = clock(next.duration);
    part("seek").max = String(next.duration);
    for (const path of bar.querySelectorAll("[data-player-path]")) path.setAttribute("d", next.path);
    bar.toggleAttribute("data-live", Boolean(next.live));
    part("seek").disabled = Boolean(next.live);
    for (const name of ["loop", "favourite", "download"]) part(name).hidden = Boolean(next.live);
    part("download").href = next.downloadUrl ?? "#";
    showFavourite();
    showPosition();
    tellSystem();
    tell();
  },

  play() {
    if (take) sound.play().catch(showTrouble);
  },

  toggle(next = take) {
    if (!next) return;
    if (take?.id === next.id && this.isPlaying) {
      sound.pause();
      return;
    }
    if (take?.id !== next.id) this.load(next);
    this.play();
  },

  /** Move to `seconds` in the current take. */
  seek(seconds) {
    if (!take || take.live) return;
    const goal = Math.min(take.duration, Math.max(0, seconds));
    if (audio.readyState > 0) audio.currentTime = goal;
    else audio.addEventListener("loadedmetadata", () => (audio.currentTime = goal), { once: true });
    showPosition(goal);
  },

  close() {
    if (!take) return;
    take = null;
    hush();
    audio.removeAttribute("src");
    audio.load();
    bar.hidden = true;
    tell();
  },

  /** The row is the truth about its own favourite; a take that has left the page keeps what was last known. */
  setFavourite(isFavourite) {
    if (!take || take.isFavourite === isFavourite) return;
    take.isFavourite = isFavourite;
    showFavourite();
  },

  toggleFavourite() {
    if (!take || take.live) return;
    const button = document.querySelector(`#take-${CSS.escape(take.id)} [data-favourite-form] button`);
    if (button) {
      button.click();
      return;
    }
    const wanted = !take.isFavourite;
    window.htmx.ajax("POST", take.favouriteUrl, { target: document.body, swap: "none" }).then(() => player.setFavourite(wanted));
  },
};

/** End what is heard; the element is there for the next. */
function hush() {
  if (sound === audio) audio.pause();
  else sound.close();
  sound = audio;
}

function attach(next) {
  const whileHeard = (listener) => (event) => event.target === sound && listener(event);
  for (const name of ["play", "pause", "ended"]) next.addEventListener(name, whileHeard(showState));
  next.addEventListener("play", whileHeard(() => requestAnimationFrame(follow)));
  for (const name of ["timeupdate", "seeked"]) next.addEventListener(name, whileHeard(() => showPosition()));
  if (next !== audio) {
    next.addEventListener("waiting", whileHeard(() => (part("facts").textContent = "Waiting for more")));
    next.addEventListener("playing", whileHeard(() => (part("facts").textContent = take.facts)));
  }
  next.addEventListener("error", whileHeard(() => (take?.live || audio.hasAttribute("src")) && showTrouble(next.error)));
  return next;
}

function showFavourite() {
  part("favourite").setAttribute("aria-pressed", String(take.isFavourite));
  part("favourite").title = take.isFavourite ? "Remove from favourites" : "Favourite";
}

function showPosition(seconds = sound.currentTime) {
  if (!take) return;
  const share = take.duration > 0 ? Math.min(1, seconds / take.duration) : 0;
  part("now").textContent = clock(seconds);
  part("wave").style.setProperty("--played", `${share * 100}%`);
  part("seek").value = String(seconds);
  part("seek").setAttribute("aria-valuetext", `${clock(seconds)} of ${clock(take.duration)}`);
  document.dispatchEvent(new CustomEvent("player:position", { detail: { seconds, share } }));
}

function follow() {
  showPosition();
  if (player.isPlaying && !stillness.matches && !document.hidden) requestAnimationFrame(follow);
}

function showState() {
  bar.toggleAttribute("data-playing", player.isPlaying);
  part("toggle").setAttribute("aria-label", player.isPlaying ? "Pause" : "Play");
  if ("mediaSession" in navigator) navigator.mediaSession.playbackState = player.isPlaying ? "playing" : "paused";
  tell();
}

function showTrouble(error) {
  if (!take || error?.name === "AbortError" || error?.name === "NotAllowedError") return;
  bar.setAttribute("data-trouble", "");
  part("facts").textContent = "This take cannot be played.";
  const sentence = take.live && error?.message;
  showToast(sentence || "The sound of this take did not arrive. Look whether the studio is still running.", "bad");
}

function tellSystem() {
  if (!("mediaSession" in navigator)) return;
  navigator.mediaSession.metadata = new MediaMetadata({ title: take.title, artist: take.model, album: "MusicGen Studio" });
}

function applyVolume() {
  sound.volume = volume * Math.min(1, take?.gain ?? 1);
  sound.muted = muted;
}

function setVolume(wanted, isMuted) {
  volume = wanted;
  muted = isMuted;
  applyVolume();
  const slider = part("volume");
  slider.value = String(volume);
  slider.style.setProperty("--filled", `${(muted ? 0 : volume) * 100}%`);
  part("mute").setAttribute("aria-pressed", String(muted || volume === 0));
}

function setLoop(loop) {
  audio.loop = loop;
  part("loop").setAttribute("aria-pressed", String(loop));
}

if (bar) {
  attach(audio);

  part("toggle").addEventListener("click", () => player.toggle());
  part("close").addEventListener("click", () => player.close());
  part("favourite").addEventListener("click", () => player.toggleFavourite());
  part("seek").addEventListener("input", (event) => player.seek(Number(event.target.value)));
  part("loop").addEventListener("click", () => {
    setLoop(!audio.loop);
    remember("loop", audio.loop ? "yes" : null);
  });
  part("volume").addEventListener("input", (event) => {
    setVolume(Number(event.target.value), false);
    remember("volume", event.target.value);
  });
  part("mute").addEventListener("click", () => setVolume(volume || 0.5, !(muted || volume === 0)));

  const kept = Number(recall("volume", "1"));
  setVolume(kept >= 0 && kept <= 1 ? kept : 1, false);
  setLoop(recall("loop") === "yes");

  if ("mediaSession" in navigator) {
    const actions = {
      play: () => player.play(),
      pause: () => sound.pause(),
      seekbackward: (details) => player.seek(player.position - (details.seekOffset ?? 5)),
      seekforward: (details) => player.seek(player.position + (details.seekOffset ?? 5)),
      seekto: (details) => player.seek(details.seekTime ?? 0),
    };
    for (const [name, action] of Object.entries(actions)) {
      try {
        navigator.mediaSession.setActionHandler(name, action);
      } catch {
        // This browser lacks the action; the page's own controls remain.
      }
    }
  }
}
