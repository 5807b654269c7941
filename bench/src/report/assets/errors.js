// What goes wrong in a script is written into the page: a chart that fails must not fail silently.
window.addEventListener("error", function (event) {
  const note = document.createElement("p");
  note.className = "script-error";
  note.textContent = "script error: " + event.message + " (line " + event.lineno + ")";
  document.body.append(note);
});
