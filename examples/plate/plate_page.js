const wells = JSON.parse(document.getElementById("wells").textContent);
const element = (name, text) => Object.assign(document.createElement(name), {textContent: text});
function show(node) {
  const well = wells[node.dataset.index];
  document.querySelectorAll(".shown").forEach(other => other.classList.remove("shown"));
  node.classList.add("shown");
  document.getElementById("title").textContent = well.title;
  const picture = document.getElementById("picture");
  picture.hidden = !well.picture;
  picture.src = well.picture ? "data:image/png;base64," + well.picture : "";
  picture.alt = "First site of " + well.title.toLowerCase();
  document.getElementById("lines").replaceChildren(
    ...well.lines.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}
for (const node of document.querySelectorAll(".well"))
  for (const event of ["mouseenter", "focus", "click"]) node.addEventListener(event, () => show(node));
show(document.querySelector(".well"));
