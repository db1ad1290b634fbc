// Pictures from this device: they live in this tab, and nowhere else.

const kept = new Map(); // number -> { file, name, url }
let last = 0;

/** Keep a picture. Returns its number. */
export function keep(file) {
  last += 1;
  kept.set(last, { file, name: file.name || "pasted picture", url: URL.createObjectURL(file) });
  return last;
}

export const uploaded = (number) => kept.get(number);

/** The picture in what was dropped or pasted, if there is one. */
export function fileIn(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/") || file.name) ?? null;
}

/** Why a file will not do, or null. The server looks at it again. */
export function complaint(file, limits) {
  const most = Math.round(limits.upload_bytes / 1e6);
  if (!file.size) return `“${file.name}” is empty. Choose another picture.`;
  if (file.size > limits.upload_bytes) {
    return `“${file.name}” has ${(file.size / 1e6).toFixed(1)} MB; at most ${most} MB are taken. Scale it down.`;
  }
  return null;
}

/** Take pictures that are chosen, pasted, or dropped anywhere. */
export function listen({ file, veil, take }) {
  file.addEventListener("change", () => {
    const chosen = file.files[0];
    file.value = ""; // so that the same file can be chosen again
    if (chosen) take(chosen);
  });
  addEventListener("paste", (event) => {
    const pasted = fileIn(event.clipboardData);
    if (!pasted) return;
    event.preventDefault();
    take(pasted);
  });
  let depth = 0;
  const show = (on) => veil.classList.toggle("shown", on);
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => {
    if (!holdsFiles(event)) return;
    depth += 1;
    show(true);
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) show(false);
  });
  addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    depth = 0;
    show(false);
    if (!holdsFiles(event)) return;
    event.preventDefault();
    const dropped = fileIn(event.dataTransfer);
    if (dropped) take(dropped);
  });
}
