// Comparing takes by ear: the sounds of one comparison are fetched at once, so that going from one to another is a cut and
// not a pause. Levels and the kept position are the player's; the keys 1, 2 and 3 are here.
import { onContent } from "./swaps.js";

const sounds = new Map(); // address -> blob address once it has arrived, null until then

/** Where to play that address from: memory when the sound is here already. */
export function soundOf(address) {
  return sounds.get(address) ?? address;
}

async function fetchSound(address) {
  sounds.set(address, null);
  try {
    const answer = await fetch(address, { credentials: "same-origin" });
    if (!answer.ok) throw new Error(String(answer.status));
    const sound = URL.createObjectURL(await answer.blob());
    if (sounds.has(address)) sounds.set(address, sound);
    else URL.revokeObjectURL(sound);
  } catch {
    sounds.delete(address); // The player fetches it by itself, and says what is wrong.
  }
}

onContent(() => {
  const here = new Set([...document.querySelectorAll("[data-take][data-group]")].map((row) => row.dataset.audioUrl));
  const playing = document.querySelector("[data-player-audio]")?.src;
  for (const address of here) if (!sounds.has(address)) fetchSound(address);
  for (const [address, sound] of [...sounds]) {
    if (here.has(address) || (sound && sound === playing)) continue;
    if (sound) URL.revokeObjectURL(sound);
    sounds.delete(address);
  }
});
