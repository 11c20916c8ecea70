// A client of the JSON lines for node: requests on stdout, replies on stdin, the sums on stderr.

const replies = require("readline").createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function ask(request) {
  process.stdout.write((typeof request === "string" ? request : JSON.stringify(request)) + "\n");
  const { value, done } = await replies.next();
  if (done) throw new Error("the server has ended");
  return JSON.parse(value);
}

async function main() {
  const wrong = [{ cmd: "jump" }, { cmd: "step", action: 99 }, "no JSON", { cmd: "step", action: 0.5 }, [], { cmd: "step" }];
  const actions = (await ask({ cmd: "describe" })).n_actions;
  await ask('\n\n{"cmd": "reset", "seed": 7.0}');
  let [resets, errors, rewards, positions] = [1, 0, 0, 0];
  for (let step = 0; step < 300; step++) {
    if (step % 50 === 0) errors += !(await ask(wrong[step / 50])).ok;
    const reply = await ask({ cmd: "step", action: ((step * step) % 3) % actions });
    if (!reply.ok) throw new Error(reply.error);
    rewards += reply.reward;
    positions += reply.obs[0];
    if (reply.terminated || reply.truncated) {
      resets++;
      await ask({ cmd: "reset" });
    }
  }
  const sums = `steps 300 resets ${resets} errors ${errors} rewards ${rewards.toFixed(1)}`;
  process.stderr.write(`${sums} positions ${positions.toFixed(6)}\n`);
  process.exit(0); // the end of input ends the server
}

main();
