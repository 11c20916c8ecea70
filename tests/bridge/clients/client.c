/* A client of the JSON lines in C: requests on stdout, replies on stdin, the sums on stderr. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char reply[1 << 16];

static int ask(const char *request)
{
    puts(request);
    fflush(stdout);
    if (!fgets(reply, sizeof reply, stdin)) {
        fputs("the server has ended\n", stderr);
        exit(3);
    }
    return strncmp(reply, "{\"ok\":true", 10) == 0;
}

static double number_after(const char *name)
{
    const char *found = strstr(reply, name);
    if (!found) {
        fprintf(stderr, "no %s in %s", name, reply);
        exit(4);
    }
    return strtod(found + strlen(name), NULL);
}

static int holds(const char *text) { return strstr(reply, text) != NULL; }

int main(void)
{
    const char *wrong[] = {"{\"cmd\": \"jump\"}", "{\"cmd\": \"step\", \"action\": 99}", "no JSON",
                           "{\"cmd\": \"step\", \"action\": 0.5}", "[]", "{\"cmd\": \"step\"}"};
    int step, resets = 1, errors = 0, actions;
    double rewards = 0, positions = 0;
    char request[64];

    if (!ask("{\"cmd\": \"describe\"}"))
        return 5;
    actions = (int)number_after("\"n_actions\":");
    if (!ask("\n\n{\"cmd\": \"reset\", \"seed\": 7.0}"))
        return 6;
    for (step = 0; step < 300; step++) {
        if (step % 50 == 0)
            errors += !ask(wrong[step / 50]);
        /* As languages write it that have one kind of number. */
        sprintf(request, "{\"cmd\": \"step\", \"action\": %.1f}", (double)(step * step % 3 % actions));
        if (!ask(request))
            return 7;
        rewards += number_after("\"reward\":");
        positions += number_after("\"obs\":[");
        if (holds("\"terminated\":true") || holds("\"truncated\":true")) {
            resets++;
            if (!ask("{\"cmd\": \"reset\"}"))
                return 8;
        }
    }
    fprintf(stderr, "steps %d resets %d errors %d rewards %.1f positions %.6f\n", step, resets, errors,
            rewards, positions);
    return 0; /* the end of input ends the server */
}
