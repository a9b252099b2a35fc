"use strict";
if (typeof window.onAuthDone === "function") window.onAuthDone();
else if (window.opener?.postMessage) window.opener.postMessage("authDone", "*");
