"use strict";
document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = document.getElementById("problem");
  problem.textContent = "";
  const query = new URLSearchParams(window.location.search);
  const request = {
    type: "m.login.password",
    identifier: { type: "m.id.user", user: document.getElementById("user").value },
    password: document.getElementById("password").value,
  };
  for (const name of ["device_id", "initial_device_display_name"]) {
    if (query.has(name)) request[name] = query.get(name);
  }
  try {
    const response = await fetch("/_matrix/client/v3/login", { method: "POST", body: JSON.stringify(request) });
    const answer = await response.json();
    if (!response.ok) {
      problem.textContent = answer.error;
      return;
    }
    if (typeof window.onLogin === "function") window.onLogin(answer);
    else if (typeof window.matrixLogin?.onLogin === "function") window.matrixLogin.onLogin(answer);
    else problem.textContent = "You are logged in, but no client is waiting for it.";
  } catch {
    problem.textContent = "The server could not be reached. Try again.";
  }
});
