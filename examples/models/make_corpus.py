#!/usr/bin/env python3
"""Writes the training corpus and the held-out questions of the tutor models.

Every question belongs to a task and has one right answer and a *key*: what the
question is about. A hash of the key alone decides whether it is held out, so no
seed and no corpus size can move a question from one side to the other:

* tasks that compose (arithmetic, counting, sorting, copying, stories): the key is
  the operands, whatever the phrasing, so that neither "34 + 27" nor "27 plus 34"
  nor a story about them is trained on if the pair {27, 34} is held out;
* tables (capitals, colours, spelling, times tables): the key is the fact together
  with the phrasing, as a fact that was never shown cannot be known.

    make_corpus.py --out corpus.jsonl --count 400000 --seed 1
    make_corpus.py --out warm_up.jsonl --count 100000 --seed 3 --drills 0.5
    make_corpus.py --held-out held_out.jsonl --seed 2
"""
import argparse
import hashlib
import json
import random

WORDS = """apple arm baby bag ball bank bear bed bee bell bird boat bone book box boy bread
bus cake camp car cat chair clock cloud coat corn cow cup desk dog door duck ear egg eye face
farm fish flag floor fox frog game gate girl goat grape hand hat head hill horse house ice
jam key king kite lake lamp leaf lemon lion map milk moon mouse nest nose ocean onion owl paper
park pear pen pig plane plate queen rain ring river road rock roof room rose sand school sea
sheep ship shoe snow sock soup spoon star stone sun table tent tiger train tree truck van
wall watch water whale wind wolf wood yard zebra""".split()

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "Austria": "Vienna", "Poland": "Warsaw", "Greece": "Athens",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Ireland": "Dublin", "England": "London", "Belgium": "Brussels", "Hungary": "Budapest",
    "Romania": "Bucharest", "Russia": "Moscow", "Turkey": "Ankara", "Egypt": "Cairo",
    "Kenya": "Nairobi", "Japan": "Tokyo", "China": "Beijing", "India": "Delhi",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "Iran": "Tehran", "Iraq": "Baghdad",
    "Canada": "Ottawa", "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago",
    "Australia": "Canberra", "Ghana": "Accra", "Morocco": "Rabat", "Nepal": "Kathmandu",
    "Iceland": "Reykjavik", "Serbia": "Belgrade", "Croatia": "Zagreb", "Bulgaria": "Sofia",
}
COLOURS = {
    "snow": "white", "milk": "white", "a swan": "white", "grass": "green", "a frog": "green",
    "a leaf": "green", "a pea": "green", "the sky": "blue", "the sea": "blue",
    "a lemon": "yellow", "a banana": "yellow", "the sun": "yellow", "butter": "yellow",
    "blood": "red", "a tomato": "red", "a cherry": "red", "a strawberry": "red",
    "a carrot": "orange", "a pumpkin": "orange", "coal": "black", "a raven": "black",
    "the night": "black", "chocolate": "brown", "wood": "brown", "a bear": "brown",
    "a flamingo": "pink", "a pig": "pink", "an elephant": "grey", "a plum": "purple",
    "a violet": "purple",
}
OPPOSITES = """hot cold/big small/up down/left right/day night/fast slow/hard soft/old young/
open closed/wet dry/full empty/happy sad/high low/long short/light dark/good bad/rich poor/
strong weak/early late/near far/first last/loud quiet/thick thin/clean dirty/win lose/
push pull/start stop/inside outside/heavy light/true false""".replace("\n", "").split("/")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = ("January February March April May June July August September October November "
          "December").split()
NAMES = "Tom Anna Ben Lisa Sam Emma Max Nina Paul Ella Jack Mia".split()
ITEMS = "apples books coins pens stamps eggs shells cards balls cakes".split()

ADD = ["What is {a} + {b}?", "{a} + {b} = ?", "What is {a} plus {b}?", "Add {a} and {b}.",
       "What is the sum of {a} and {b}?", "{a}+{b}"]
SUB = ["What is {a} - {b}?", "{a} - {b} = ?", "What is {a} minus {b}?",
       "Subtract {b} from {a}.", "What is left if you take {b} from {a}?", "{a}-{b}"]
MUL = ["What is {a} x {b}?", "{a} x {b} = ?", "What is {a} times {b}?", "Multiply {a} by {b}.",
       "What is the product of {a} and {b}?"]
GAIN = ["{n} has {a} {i} and gets {b} more. How many {i} does {n} have now?",
        "{n} has {a} {i}. {m} gives {n} {b} more. How many {i} does {n} have?",
        "There are {a} {i} on the table. {n} adds {b}. How many {i} are there?"]
LOSE = ["{n} has {a} {i} and gives {b} to {m}. How many {i} does {n} have left?",
        "{n} had {a} {i} and lost {b}. How many {i} are left?",
        "There are {a} {i} on the table. {n} takes {b}. How many {i} are left?"]
TIMES = ["{n} has {a} bags with {b} {i} in each. How many {i} does {n} have?",
         "There are {a} boxes with {b} {i} in each. How many {i} are there?"]
SPELL = ["Spell the word {w}.", "How do you spell {w}?", "Spell {w}.",
         "What are the letters of {w}?", "Please spell {w} for me."]
BACKWARDS = ["Spell {w} backwards.", "Reverse the word {w}.", "What is {w} backwards?",
             "Spell the word {w} in reverse."]
CAPITAL = ["What is the capital of {c}?", "Name the capital of {c}.", "Capital of {c}?",
           "Which city is the capital of {c}?", "Tell me the capital of {c}."]
COUNTRY = ["{t} is the capital of which country?", "Which country has the capital {t}?",
           "In which country is {t}?"]
COLOUR = ["What colour is {x}?", "Which colour is {x}?", "Tell me the colour of {x}.",
          "What is the colour of {x}?", "Name the colour of {x}."]
OPPOSITE = ["What is the opposite of {x}?", "Name the opposite of {x}.", "Opposite of {x}?",
            "Which word means the opposite of {x}?", "Tell me the opposite of {x}."]
SMALL_TALK = [
    ("Hello", "Hello! Ask me a short question."), ("Hi", "Hello! Ask me a short question."),
    ("Hello!", "Hello! Ask me a short question."), ("Thank you.", "You are welcome."),
    ("Thanks!", "You are welcome."), ("Goodbye.", "Goodbye!"), ("Bye", "Goodbye!"),
    ("Who are you?", "I am Tutor, a very small model. I can add, count, spell, sort and copy."),
    ("What can you do?", "I can add, subtract, count, spell, reverse, sort and copy, and I "
     "know some capitals and colours."),
    ("How are you?", "I am fine, thank you."),
]


def held_out(key, one_in):
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % one_in == 0


def words(r, low, high):
    return r.sample(WORDS, r.randint(low, high))


def number(r):
    return r.randint(1, 99) if r.random() < 0.85 else r.randint(1, 19)


def fill(r, forms, **values):
    return r.choice(forms).format(**values)


# Each task returns (key, question, answer). Composing tasks first.
def add(r):
    a, b = number(r), number(r)
    return f"add {min(a, b)} {max(a, b)}", fill(r, ADD, a=a, b=b), str(a + b)


def subtract(r):
    b, a = sorted((number(r), number(r)))
    return f"sub {a} {b}", fill(r, SUB, a=a, b=b), str(a - b)


def story_sum(r):
    n, m = r.sample(NAMES, 2)
    a, b, i = r.randint(2, 50), r.randint(2, 40), r.choice(ITEMS)
    if r.random() < 0.5:
        return f"add {min(a, b)} {max(a, b)}", fill(r, GAIN, n=n, m=m, a=a, b=b, i=i), str(a + b)
    b, a = sorted((a, b))
    a += a == b
    return f"sub {a} {b}", fill(r, LOSE, n=n, m=m, a=a, b=b, i=i), str(a - b)


def compare(r):
    a, b = r.sample(range(1, 100), 2)
    word, answer = r.choice([("larger", max(a, b)), ("smaller", min(a, b))])
    form = r.choice(["Which is {w}, {a} or {b}?", "Which number is {w}: {a} or {b}?"])
    return f"compare {min(a, b)} {max(a, b)}", form.format(w=word, a=a, b=b), str(answer)


def count_items(r):
    items = [r.choice(WORDS) for _ in range(r.randint(2, 9))]
    form = r.choice(["How many words are in this list: {l}?", "Count the words: {l}."])
    return f"items {items}", form.format(l=" ".join(items)), str(len(items))


def letters(r, low, high):
    return [r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(r.randint(low, high))]


def count_letters(r):
    chars = letters(r, 2, 8)
    form = r.choice(["How many letters are in {l}?", "Count the letters: {l}."])
    return f"letters {chars}", form.format(l="-".join(chars)), str(len(chars))


def reverse_letters(r):
    chars = letters(r, 2, 6) if r.random() < 0.7 else list(r.choice(WORDS))
    form = r.choice(["Reverse the letters {l}.", "Write {l} backwards.", "Reverse {l}."])
    return f"letters {chars}", form.format(l="-".join(chars)), "-".join(reversed(chars))


def reverse_words(r):
    items = words(r, 2, 5)
    form = r.choice(["Reverse the list: {l}.", "Write this list backwards: {l}."])
    return f"list {items}", form.format(l=" ".join(items)), " ".join(reversed(items))


def copy(r):
    if r.random() < 0.3:
        text = "-".join(letters(r, 3, 7))
    elif r.random() < 0.3:
        text = " ".join(str(r.randint(1, 99)) for _ in range(r.randint(2, 4)))
    else:
        text = " ".join(words(r, 2, 6))
    form = r.choice(["Repeat: {l}", "Say this again: {l}", "Copy this: {l}"])
    return f"copy {text}", form.format(l=text), text


def sort_numbers(r):
    items = r.sample(range(1, 100), r.randint(3, 4))
    order = r.choice(["smallest first", "largest first"])
    answer = " ".join(map(str, sorted(items, reverse=order[0] == "l")))
    form = r.choice(["Sort these numbers, {o}: {l}.", "Sort, {o}: {l}.",
                     "Put in order, {o}: {l}."])
    return f"sort {sorted(items)}", form.format(o=order, l=" ".join(map(str, items))), answer


def sort_words(r):
    by_initial = {}
    for word in r.sample(WORDS, 12):
        by_initial[word[0]] = word
    items = r.sample(sorted(by_initial.values()), r.randint(2, 3))
    form = r.choice(["Sort these words by the alphabet: {l}.", "Put in alphabetical order: {l}."])
    return (f"alphabet {sorted(items)}", form.format(l=" ".join(items)),
            " ".join(sorted(items)))


# Tables: the phrasing is a part of the key.
def fact(question, answer):
    return question, question, answer


def multiply(r):
    a, b = r.randint(2, 10), r.randint(2, 10)
    return fact(fill(r, MUL, a=a, b=b), str(a * b))


def story_times(r):
    n, i, a, b = r.choice(NAMES), r.choice(ITEMS), r.randint(2, 10), r.randint(2, 10)
    return fact(fill(r, TIMES, n=n, i=i, a=a, b=b), str(a * b))


def neighbour(r):
    k, (word, step) = r.randint(2, 98), r.choice([("after", 1), ("before", -1)])
    form = r.choice(["Which number comes {w} {k}?", "What number is {w} {k}?",
                     "Name the number {w} {k}.", "What number comes right {w} {k}?"])
    return fact(form.format(k=k, w=word), str(k + step))


def spell(r):
    word = r.choice(WORDS)
    if r.random() < 0.2:
        return fact(f"How many letters are in the word {word}?", str(len(word)))
    return fact(fill(r, SPELL, w=word), "-".join(word))


def backwards(r):
    word = r.choice(WORDS)
    return fact(fill(r, BACKWARDS, w=word), "-".join(reversed(word)))


def capital(r):
    country, town = r.choice(sorted(CAPITALS.items()))
    if r.random() < 0.65:
        return fact(fill(r, CAPITAL, c=country), town)
    return fact(fill(r, COUNTRY, t=town), country)


def colour(r):
    thing, shade = r.choice(sorted(COLOURS.items()))
    return fact(fill(r, COLOUR, x=thing), shade)


def opposite(r):
    one, other = r.choice(OPPOSITES).split()
    if r.random() < 0.5 and "light" not in (one, other):
        one, other = other, one
    if one == "light":  # of dark or of heavy: ask only the other way round
        one, other = other, one
    return fact(fill(r, OPPOSITE, x=one), other)


def calendar(r):
    kind, names = r.choice([("day", DAYS), ("month", MONTHS)])
    k, (word, step) = r.randrange(len(names)), r.choice([("after", 1), ("before", -1)])
    form = r.choice(["Which {k} comes {w} {n}?", "What {k} is {w} {n}?", "Name the {k} {w} {n}.",
                     "What {k} comes right {w} {n}?"])
    return fact(form.format(k=kind, w=word, n=names[k]), names[(k + step) % len(names)])


# task: (weight in the corpus, one in how many keys is held out)
TASKS = {
    add: (15, 20), subtract: (17, 20), story_sum: (8, 20), multiply: (6, 10),
    story_times: (8, 10), compare: (2, 20), count_items: (3, 20), count_letters: (2, 20),
    neighbour: (7, 8), spell: (7, 10), backwards: (5, 10), reverse_letters: (3, 20),
    reverse_words: (2, 20), sort_numbers: (8, 20), sort_words: (7, 20), copy: (4, 20),
    capital: (9, 6), colour: (2, 4), opposite: (2, 8), calendar: (3, 5),
}
HELD_OUT_PER_TASK = 25


def drill(r):
    """Long copies and reversals: most of the row is answer, and attention that looks up an
    earlier place, on which nearly all tasks depend, forms early in training."""
    kind = r.random()
    if kind < 0.4:
        items, name, glue = letters(r, 5, 13), "letters", "-"
    elif kind < 0.8:
        items, name, glue = words(r, 4, 12), "list", " "
    else:
        items, name, glue = [str(r.randint(1, 99)) for _ in range(r.randint(3, 7))], "copy", " "
    text = glue.join(items)
    if r.random() < 0.35:
        return f"{name} {items}", f"Reverse {text}.", glue.join(reversed(items))
    return f"copy {text}", f"Repeat: {text}", text


def vary(r, question):
    """Small slips of a typing user; trained on, not measured."""
    if r.random() < 0.08 and question[-1] in "?.":
        question = question[:-1]
    if r.random() < 0.08 and question[:2] != "I " and question.split()[0] not in NAMES:
        question = question[0].lower() + question[1:]
    return question


def corpus(count, seed, drills):
    r = random.Random(seed)
    tasks, weights = list(TASKS), [w for w, _ in TASKS.values()]
    while count:
        if r.random() < 0.015:
            question, answer = r.choice(SMALL_TALK)
            yield {"task": "small_talk", "question": question, "answer": answer}
            count -= 1
            continue
        task = drill if r.random() < drills else r.choices(tasks, weights)[0]
        key, question, answer = task(r)
        if not held_out(key, TASKS.get(task, (0, 20))[1]):
            yield {"task": task.__name__, "question": vary(r, question), "answer": answer}
            count -= 1


def held_out_questions(seed):
    r = random.Random(seed)
    for task, (_, one_in) in TASKS.items():
        seen = set()
        for _ in range(200000):
            key, question, answer = task(r)
            if held_out(key, one_in) and question not in seen:
                seen.add(question)
                yield {"task": task.__name__, "question": question, "answer": answer}
            if len(seen) == HELD_OUT_PER_TASK:
                break
        else:
            raise SystemExit(f"{task.__name__}: only {len(seen)} held-out questions")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--out", help="write the training corpus here (JSON lines)")
    p.add_argument("--count", type=int, default=400000)
    p.add_argument("--drills", type=float, default=0, help="share of drills, for a warm-up")
    p.add_argument("--held-out", help="write the 500 held-out questions here")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    for path, lines in ((a.out, lambda: corpus(a.count, a.seed, a.drills)),
                        (a.held_out, lambda: held_out_questions(a.seed))):
        if path:
            with open(path, "w", encoding="utf-8") as f:
                for line in lines():
                    f.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
