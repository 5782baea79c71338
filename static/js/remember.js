// Small choices of the person, kept in this browser only. Knows nothing of what they mean.
// Where storage is forbidden a choice lasts as long as the page.
const kept = new Map();

export function recall(name, fallback = null) {
  if (kept.has(name)) return kept.get(name);
  try {
    return localStorage.getItem(`musicgen.${name}`) ?? fallback;
  } catch {
    return fallback;
  }
}

export function remember(name, value) {
  kept.set(name, value);
  try {
    if (value === null) localStorage.removeItem(`musicgen.${name}`);
    else localStorage.setItem(`musicgen.${name}`, value);
  } catch {
    // Forbidden storage: `kept` holds it until the page goes.
  }
}
