"""A Matrix user on an IRC network through heisenbridge, both ways, with a restart of the bridge between.

Arguments: the program, a free directory. Needs `ngircd`, and `heisenbridge` beside the Python that runs this.
"""
import json, os, pathlib, re, socket, subprocess, sys, time, urllib.error, urllib.parse, urllib.request

SOON = 120
PROGRAM, HOME = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
BRIDGE = pathlib.Path(sys.executable).parent / "heisenbridge"
NGIRCD = next(path for path in ("/usr/sbin/ngircd", "/usr/bin/ngircd") if os.path.exists(path))
running = []


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def until(what, found):
    end = time.monotonic() + SOON
    while not (answer := found()):
        assert time.monotonic() < end, "not in time: " + what
        time.sleep(0.05)
    print("seen:", what, flush=True)
    return answer


def start(name, command, **settings):
    log = open(HOME / f"{name}.log", "w")
    child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=HOME, **settings)
    running.append(child)
    return child


def log_of(name):
    return (HOME / f"{name}.log").read_text(errors="replace")


class Matrix:
    def __init__(self, base):
        self.base, self.token, self.since, self.sent, self.events, self.invites = base, None, "", 0, [], []

    def call(self, method, path, body=None):
        request = urllib.request.Request(self.base + "/_matrix/client/v3" + path, method=method)
        request.add_header("content-type", "application/json")
        if self.token:
            request.add_header("authorization", "Bearer " + self.token)
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, data, timeout=60) as answer:
            return json.load(answer)

    def say(self, room, text):
        self.sent += 1
        path = f"/rooms/{urllib.parse.quote(room)}/send/m.room.message/{self.sent}"
        self.call("PUT", path, {"msgtype": "m.text", "body": text})

    def look(self):
        # Nothing may fall out of the timeline.
        everything = urllib.parse.quote(json.dumps({"room": {"timeline": {"limit": 1_000}}}))
        answer = self.call("GET", f"/sync?timeout=0&filter={everything}{self.since}")
        self.since = "&since=" + answer["next_batch"]
        for room in answer.get("rooms", {}).get("invite", {}):
            self.invites.append(room)
            self.call("POST", "/join/" + urllib.parse.quote(room), {})
        for room, news in answer.get("rooms", {}).get("join", {}).items():
            self.events += [(room, event) for event in news["timeline"]["events"]]

    def heard(self, text, room=None):
        self.look()
        return [
            event for place, event in self.events
            if text in str(event["content"].get("body", "")) and room in (None, place) and event["sender"] != self.id
        ]

    def newly_invited(self, known):
        self.look()
        return next((room for room in self.invites if room not in known), None)


class Irc:
    def __init__(self, port, nick):
        self.socket, self.text = socket.create_connection(("127.0.0.1", port)), ""
        self.socket.setblocking(False)
        self.tell(f"NICK {nick}\r\nUSER {nick} 0 * :{nick}")

    def tell(self, line):
        self.socket.sendall(line.encode() + b"\r\n")

    def saw(self, pattern):
        try:
            self.text += self.socket.recv(65536).decode(errors="replace")
        except BlockingIOError:
            pass
        for ping in re.findall(r"^PING (.*)$", self.text, re.M):
            self.tell("PONG " + ping)
        self.text = re.sub(r"^PING .*$", "", self.text, flags=re.M)
        return re.search(pattern, self.text)


def start_bridge(base):
    child = start("bridge", [BRIDGE, "-v", "-c", HOME / "registration.yaml", base])
    until("the bridge runs", lambda: "bridge is now running" in log_of("bridge"))
    return child


def main():
    server_port, bridge_port, irc_port = free_port(), free_port(), free_port()
    registration = HOME / "registration.yaml"
    made = [BRIDGE, "-c", registration, "-l", "127.0.0.1", "-p", str(bridge_port), "--generate"]
    subprocess.run(made, check=True, capture_output=True)
    (HOME / "entente.toml").write_text(
        f'[[listeners]]\naddress = "127.0.0.1:{server_port}"\n[registration]\nopen = true\n'
        f'[rate_limits]\nenabled = false\n[application_services]\nregistrations = ["{registration}"]\n')
    (HOME / "ngircd.conf").write_text(
        f"[Global]\nName = irc.example.org\nInfo = test\nListen = 127.0.0.1\nPorts = {irc_port}\n"
        "ServerUID = nobody\nServerGID = nogroup\n[Limits]\nMaxConnectionsIP = 0\nMaxPenaltyTime = 0\n"
        "[Options]\nPAM = no\nDNS = no\nIdent = no\n")
    start("ngircd", [NGIRCD, "-n", "-f", HOME / "ngircd.conf"])
    environment = {**os.environ, "ENTENTE_CONFIG": "entente.toml", "ENTENTE_CALLS__ENABLED": "false"}
    run_server = lambda: start("entente", [PROGRAM], env=environment)
    server = run_server()
    until("the server runs", lambda: "Ctrl-C" in log_of("entente"))
    base = f"http://127.0.0.1:{server_port}"
    bridge = start_bridge(base)
    user = Matrix(base)
    body = {"username": "alice", "password": "long enough", "auth": {"type": "m.login.dummy"}}
    who = user.call("POST", "/register", body)
    user.id, user.token = who["user_id"], who["access_token"]
    bot = "@heisenbridge:" + user.id.split(":", 1)[1]
    room = {"preset": "trusted_private_chat", "is_direct": True, "invite": [bot]}
    control = user.call("POST", "/createRoom", room)["room_id"]
    joined = lambda: bot in user.call("GET", f"/rooms/{urllib.parse.quote(control)}/joined_members")["joined"]
    until("the bot comes", joined)
    for line in ("ADDNETWORK test", f"ADDSERVER test 127.0.0.1 {irc_port}", "OPEN test"):
        user.say(control, line)
    network = until("a room for the network", lambda: user.newly_invited({control}))
    user.say(network, "NICK mxuser")
    user.say(network, "CONNECT")
    until("the user is on IRC", lambda: 'User "mxuser!' in log_of("ngircd"))
    until("the network's greeting", lambda: user.heard("MOTD", network) or user.heard("End of", network))
    peer = Irc(irc_port, "peer")
    until("somebody else is on IRC", lambda: peer.saw(" 001 "))
    peer.tell("JOIN #test")
    user.say(network, "JOIN #test")
    until("the user joins the channel", lambda: peer.saw(":mxuser!.* JOIN"))
    channel = until("a room for the channel", lambda: user.newly_invited({control, network}))
    for number in range(20):
        peer.tell(f"PRIVMSG #test :from irc {number:02}")
    until("the last of 20 from IRC", lambda: user.heard("from irc 19", channel))
    heard = " ".join(event["content"]["body"] for event in user.heard("from irc", channel))
    assert re.findall(r"from irc (\d\d)", heard) == [f"{number:02}" for number in range(20)], heard
    assert user.heard("from irc 00", channel)[0]["sender"].startswith("@irc_"), "a ghost speaks"
    for number in range(5):
        user.say(channel, f"from matrix {number}")
    until("the last of 5 from Matrix", lambda: peer.saw("PRIVMSG #test :from matrix 4"))
    assert re.findall(r"PRIVMSG #test :from matrix (\d)", peer.text) == list("01234"), peer.text

    server.kill()
    server.wait()
    server = run_server()
    until("the server runs again", lambda: "Ctrl-C" in log_of("entente"))
    user.say(channel, "after the server's crash")
    until("a message after the server's crash", lambda: peer.saw("after the server's crash"))
    bridge.terminate()
    bridge.wait(SOON)
    bridge = start_bridge(base)
    until("the user is back in the channel", lambda: peer.saw(r"(?s):mxuser!\S+ QUIT.*:mxuser!\S+ JOIN"))
    peer.tell("PRIVMSG #test :after the restart")
    until("a message after the bridge's restart", lambda: user.heard("after the restart", channel))
    # What was doubled would have come before these.
    user.say(channel, "the end from matrix")
    until("the last message from Matrix", lambda: peer.saw("the end from matrix"))
    peer.tell("PRIVMSG #test :the end from irc")
    until("the last message from IRC", lambda: user.heard("the end from irc", channel))
    heard = " ".join(event["content"].get("body", "") for event in user.heard("", channel))
    for text in [f"from irc {number:02}" for number in range(20)] + ["after the restart", "the end from irc"]:
        assert heard.count(text) == 1, f"{heard.count(text)} times on Matrix: {text}"
    for text in [f"from matrix {number}" for number in range(5)] + ["after the server's crash", "the end from matrix"]:
        assert peer.text.count(text) == 1, f"{peer.text.count(text)} times on IRC: {text}"
    print("seen: each of them once, over both restarts", flush=True)


try:
    main()
    print("the bridge works")
finally:
    for child in running:
        child.kill()
        child.wait()
