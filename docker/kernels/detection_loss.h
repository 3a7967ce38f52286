// SPDX-License-Identifier: AGPL-3.0-or-later
// The detection loss of YOLO: which anchors learn which object (task-aligned assignment, TOOD, arXiv 2108.07755), and the losses of class scores
// (binary cross-entropy), boxes (CIoU) and their distributions (DFL), as in ultralytics, utils/loss.py:423 and utils/tal.py:14.
//
// The head's outputs are read where the convolutions left them, level by level, and nothing of the size of (images, anchors, classes) is made
// but the gradient. Nothing waits for the GPU, and no shape depends on what is found, so that a step can be captured in a CUDA graph:
//     decode    distances to the four sides at each anchor
//     choose    for each object the anchors inside it that fit best, at most `candidates`
//     settle    an anchor that several objects chose goes to the one that it overlaps most
//     weigh     how much each of these pairs counts, and the sum that the losses are divided by
//     losses    sums over all scores, and over the pairs
//     gradient  of all scores, and of the boxes of the pairs; other boxes have none
// All arithmetic is float32, and sums are taken in a fixed order, so that equal inputs give equal bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "batch_norm_act.h"

namespace yolov12_kernels {

constexpr int kBins = 16;           // of the distribution of a distance
constexpr int kSides = 4;           // left, top, right, bottom
constexpr int kMostLevels = 5;      // of the feature pyramid
constexpr int kMostCandidates = 16; // for each object

// One output of the head's last convolutions: element (image, channel, anchor) at image * of_image + channel * of_channel + anchor * of_anchor.
struct Plane {
  const void* data;
  int64_t of_image, of_channel, of_anchor;
};

struct Level {
  Plane boxes;   // kSides * kBins channels
  Plane scores;  // a channel for each class
  int width, height;
  float stride;  // pixels
  int first;     // anchors on the levels before it
};

struct Head {
  Level levels[kMostLevels];
  int count;
  int images, classes, anchors;
  Type type;
};

struct Rules {
  int candidates;
  float alpha, beta;    // of score and overlap in the metric
  float least_side;     // pixels; smaller objects look for anchors in a square of it
  float gains[3];       // of box, class and distribution
  const float* classes; // weights of the classes; nullptr: all 1
};

// Rows of (image, class, x, y, width, height), the last four as shares of the picture; an image below 0 is no object.
struct Objects {
  const float* rows;
  int count;
};

// A place for each candidate of each object.
struct Pairs {
  int* anchor;    // over all levels; -1 where there is no pair
  int* object;    // whose box the anchor learns
  float* weight;  // the target score of the object's class
};

// Scratch of the forward pass.
struct Scratch {
  float* distances;    // (images, anchors, 4)
  int* first;          // (images, anchors): the lowest place whose object chose the anchor
  int* last;           // and the highest
  int* newest;         // (images): an object of the image
  int* next;           // (objects): another one of the same image
  float* best_metric;  // (objects)
  float* best_overlap; // (objects)
  float* partials;     // of sums
  int* is_broken;      // whether a box is not finite
};

// How many float32 `partials` has room for.
int64_t loss_partials(const Head& head, const Objects& objects, const Rules& rules);

// losses: box, class, distribution; sums: by what they were divided, and the sum of target scores itself.
void detection_loss(const Head& head, const Objects& objects, const Rules& rules, Scratch scratch, Pairs pairs, float* losses, float* sums,
                    cudaStream_t stream);

// Gradients lie as the outputs of the head do. grad_losses: three values on the device.
void detection_loss_gradient(const Head& head, const Objects& objects, const Rules& rules, Pairs pairs, const float* sums,
                             const float* grad_losses, void* const* grad_boxes, void* const* grad_scores, cudaStream_t stream);

}  // namespace yolov12_kernels
