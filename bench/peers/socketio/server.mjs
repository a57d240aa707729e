// A message goes from its publisher to the room of its receiver, and each acknowledges it to the one before.
import { createServer } from "node:http";
import { Server } from "socket.io";

const ACK_TIMEOUT = 30_000; // ms

const http = createServer();
const io = new Server(http, { connectionStateRecovery: {}, transports: ["websocket"] });

io.on("connection", (socket) => {
  socket.join(socket.handshake.auth.name);
  socket.on("pub", (to, body, done) => {
    io.to(to).timeout(ACK_TIMEOUT).emit("msg", body, (error) => {
      if (error) console.error(`not acknowledged by ${to}`);
    });
    done();
  });
});

http.listen(0, "127.0.0.1", () => {
  console.error(`listening on ws://127.0.0.1:${http.address().port}/socket.io/`);
});
